"""What the resampling kernel does to `BLOCK` voxels at a time, as vector instructions."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from custom_components.kernels.vectors import BLOCK, FLOAT, INT64, INTP, Vectors, emitted

__all__ = ["affine_block", "cubic_block", "linear_block", "locate_block", "locate_cubic_block", "tricubic_block"]


@emitted
def affine_block(typing: Any, c: Any, c_width: Any, at: Any, x: Any, base: Any, along: Any) -> Any:
    """c[a, at : at + BLOCK] = base_a + along_a · (x, x + 1, …)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        c_width, at, x, base, along = arguments[1:]
        for a, value in enumerate(vectors.affine(x, base, along)):
            vectors.store(value, vectors.array(0, arguments), vectors.row(a, c_width, at))
        return context.get_dummy_value()

    numbers = types.UniTuple(FLOAT, 3)
    return types.void(c, INTP, INTP, INTP, numbers, numbers), generate


@emitted
def cubic_block(
    typing: Any, c: Any, c_width: Any, at: Any, x: Any, base: Any, along: Any, u: Any, du: Any, line: Any, count: Any, k: Any
) -> Any:
    """`affine_block` + ((p3 v + p2) v + p1) v + p0, v = u, u + du, u + 2 du, …, p = line[a, :, k] of (3, 4, count)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        c_width, at, x, base, along, u, du, _, count, k = arguments[1:]
        start, width = vectors.splat(u), vectors.splat(du)
        v = builder.fadd(start, builder.fmul(vectors.ramp(), width))
        table = vectors.array(8, arguments)
        for a, affine in enumerate(vectors.affine(x, base, along)):
            places = [vectors.row(4 * a + degree, count, k) for degree in range(4)]
            value, *others = [vectors.splat(builder.load(builder.gep(table, [place]))) for place in reversed(places)]
            for coefficient in others:
                value = builder.fadd(builder.fmul(value, v), coefficient)
            vectors.store(builder.fadd(affine, value), vectors.array(0, arguments), vectors.row(a, c_width, at))
        return context.get_dummy_value()

    numbers = types.UniTuple(FLOAT, 3)
    return types.void(c, INTP, INTP, INTP, numbers, numbers, FLOAT, FLOAT, line, INTP, INTP), generate


@emitted
def locate_block(
    typing: Any, c: Any, c_width: Any, at: Any, ends: Any, lasts: Any, steps: Any, slack: Any,
    f: Any, f_width: Any, corner: Any, nearest: Any,
) -> Any:  # fmt: skip
    """`_locate` for one block; returns a bit for each voxel inside."""
    numbers, whole = types.UniTuple(FLOAT, 3), types.UniTuple(types.int32, 3)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        at, ends, lasts, steps, slack = arguments[2:7]
        room = vectors.splat(slack)
        zero, half = (ir.Constant(room.type, [value] * BLOCK) for value in (0.0, 0.5))
        inside, places, strides, up = None, [], [builder.extract_value(steps, a) for a in range(3)], None
        for a in range(3):
            c = vectors.load(vectors.array(0, arguments), vectors.row(a, arguments[1], at), BLOCK)
            end = vectors.splat(builder.extract_value(ends, a))
            last = vectors.splat(builder.extract_value(lasts, a))
            # NaN compares false and is outside.
            within = builder.and_(
                builder.fcmp_ordered(">=", c, builder.fsub(zero, room)), builder.fcmp_ordered("<=", c, builder.fadd(end, room))
            )
            inside = within if inside is None else builder.and_(inside, within)
            c = vectors.high(vectors.low(c, end), zero)
            place = vectors.low(vectors.floor(c), last)
            fraction = builder.fsub(c, place)
            vectors.store(fraction, vectors.array(7, arguments), vectors.row(a, arguments[8], at))
            places.append(place)
            step = vectors.splat(strides[a])
            term = builder.select(builder.fcmp_ordered(">=", fraction, half), step, ir.Constant(step.type, [0] * BLOCK))
            up = term if up is None else builder.add(up, term)
        offset = vectors.offset(places, strides)
        vectors.store(offset, vectors.array(9, arguments), at)
        vectors.store(builder.add(offset, up), vectors.array(10, arguments), at)
        return builder.bitcast(inside, ir.IntType(BLOCK))

    signature = types.uint8(c, INTP, INTP, numbers, numbers, whole, FLOAT, f, INTP, corner, nearest)
    return signature, generate


@emitted
def linear_block(
    typing: Any, source: Any, corner: Any, at: Any, sz: Any, sy: Any, f: Any, f_width: Any, inside: Any, value: Any, out: Any
) -> Any:
    """Eight corners of each voxel, a pair of neighbours along x in one load: first between y, then z, then x."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        at, sz, sy = arguments[2:5]
        data, offsets = vectors.array(0, arguments), vectors.array(1, arguments)
        corners = [builder.gep(data, [step]) for step in (ir.Constant(INT64, 0), sy, sz, builder.add(sz, sy))]
        fz, fy, fx = (vectors.load(vectors.array(5, arguments), vectors.row(a, arguments[6], at), BLOCK) for a in range(3))
        halves = []
        for lanes in ([0, 1, 4, 5], [2, 3, 6, 7]):  # in this order each shuffle below is one instruction of AVX
            index = [vectors.index(offsets, at, lane) for lane in lanes]
            p00, p01, p10, p11 = (vectors.join([vectors.load(corner, p, 2) for p in index]) for corner in corners)
            twice = [lane for lane in lanes for _ in range(2)]
            z, y = vectors.pick(fz, fz, twice), vectors.pick(fy, fy, twice)
            halves.append(vectors.mix(vectors.mix(p00, p01, y), vectors.mix(p10, p11, y), z))
        near = vectors.pick(halves[0], halves[1], [0, 2, 8, 10, 4, 6, 12, 14])
        far = vectors.pick(halves[0], halves[1], [1, 3, 9, 11, 5, 7, 13, 15])
        bits = builder.bitcast(arguments[7], ir.VectorType(ir.IntType(1), BLOCK))
        result = builder.select(bits, vectors.mix(near, far, fx), vectors.splat(arguments[8]))
        vectors.store(result, vectors.array(9, arguments), at)
        return context.get_dummy_value()

    return types.void(source, corner, INTP, types.uintp, types.uintp, f, INTP, types.uint8, FLOAT, out), generate


@emitted
def locate_cubic_block(
    typing: Any, c: Any, c_width: Any, at: Any, lows: Any, highs: Any, steps: Any, shift: Any, corner: Any
) -> Any:
    """corner[at : at + BLOCK] = Σ floor(c) · step + shift, floor(c) being kept within [lows, highs]."""
    numbers, whole = types.UniTuple(FLOAT, 3), types.UniTuple(types.int32, 3)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        at, lows, highs, steps, shift = arguments[2:7]
        places = []
        for a in range(3):
            low, high = (vectors.splat(builder.extract_value(limit, a)) for limit in (lows, highs))
            c = vectors.floor(vectors.load(vectors.array(0, arguments), vectors.row(a, arguments[1], at), BLOCK))
            places.append(vectors.high(vectors.low(c, high), low))
        offset = vectors.offset(places, [builder.extract_value(steps, a) for a in range(3)])
        vectors.store(builder.add(offset, vectors.splat(shift)), vectors.array(7, arguments), at)
        return context.get_dummy_value()

    return types.void(c, INTP, INTP, numbers, numbers, whole, types.int32, corner), generate


@emitted
def tricubic_block(typing: Any, source: Any, corner: Any, at: Any, sz: Any, sy: Any, weights: Any, w_width: Any, out: Any) -> Any:
    """Sums of 4×4×4 coefficients for four voxels: along y and z with the four along x in one load, then along x."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        at, sz, sy = arguments[2:5]
        data, offsets, table = (vectors.array(i, arguments) for i in (0, 1, 5))
        rows = [vectors.row(k, arguments[6], at) for k in range(12)]
        sums = []
        for lane in range(4):
            place = vectors.index(offsets, at, lane)
            own = ir.Constant(INT64, lane)
            z, y = (
                [vectors.splat(builder.load(builder.gep(table, [builder.add(rows[k], own)])), 4) for k in range(k0, k0 + 4)]
                for k0 in (0, 4)
            )
            total = None
            for i in range(4):
                here, plane = place, None
                for j in range(4):
                    term = builder.fmul(vectors.load(data, here, 4), y[j])
                    plane = term if plane is None else builder.fadd(plane, term)
                    here = builder.add(here, sy)
                term = builder.fmul(plane, z[i])
                total = term if total is None else builder.fadd(total, term)
                place = builder.add(place, sz)
            sums.append(total)
        pairs = [vectors.pick(a, b, places) for a, b in (sums[:2], sums[2:]) for places in ([0, 4, 1, 5], [2, 6, 3, 7])]
        along = [
            vectors.pick(pairs[i], pairs[i + 2], places) for i in (0, 1) for places in ([0, 1, 4, 5], [2, 3, 6, 7])
        ]  # transposed: all first neighbours, all second, …
        terms = [builder.fmul(value, vectors.load(table, rows[8 + k], 4)) for k, value in enumerate(along)]
        result = builder.fadd(builder.fadd(terms[0], terms[1]), builder.fadd(terms[2], terms[3]))
        vectors.store(result, vectors.array(7, arguments), at)
        return context.get_dummy_value()

    return types.void(source, corner, INTP, types.uintp, types.uintp, weights, INTP, out), generate
