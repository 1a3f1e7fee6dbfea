"""One-pass resampling on the CPU (numba): coordinates are computed row by row in the sampling loop and never stored.

A row is all output voxels of one (sample, z, y). Along it the B-spline displacement is a cubic polynomial between two
control points, so coordinates cost three multiply-adds per voxel and axis. Several short rows are put together; then
offsets and weights of all their voxels are found, and every channel is gathered with them.

What runs per voxel is written as vector instructions of `BLOCK` voxels (`_emitted`): numba widens 32-bit integers to 64,
and takes the neighbours of a voxel one by one. The functions work on ``[start, stop)`` of the flattened rows and release
the GIL. No ``fastmath``: the arithmetic is the same on every machine. All of it is in one file: numba's cache does not see
changes in functions of another one.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["resample_range", "spline_weights"]

f32 = np.float32
_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
BLOCK = 8  # voxels of one vector instruction, or of a few where they are shorter
ALL = 255  # bits of a block whose voxels all lie inside
GROUP = 256  # voxels whose offsets and weights are held at once, at least one row
# How far beyond the edge cubic interpolation goes on in mode nearest: farther out the spline has forgotten the edge.
NEAREST_REACH = 8


@_compiled
def resample_range(  # type: ignore[no-untyped-def]
    matrix,
    lattice,
    origin,
    step,
    shape,
    mode,
    images,
    image_out,
    image_value,
    cubic,
    pad,
    labels,
    label_out,
    label_value,
    start,
    stop,
):
    """Read images (linear or cubic) and labels (nearest) at ``matrix · (z, y, x, 1) + displacement``.

    Args:
        matrix: (B, 3, 4) float64, output index to input index.
        lattice: (B, 3, l_z, l_y, l_x) float32, control points of a uniform cubic B-spline, voxels of the input.
        origin, step: (B, 3) float64; output index ``i`` lies at lattice position ``origin + i / step``, whose integer part
            is the first of the four control points that reach it.
        shape: (3,) int64, of the input.
        mode: number in `custom_components.kernels.boundary.BOUNDARY_MODES`.
        images: (B, C, V) float32: voxels, or with ``cubic`` B-spline coefficients padded by ``pad`` on both sides.
        image_out: (B, C, Z, Y, X) float32, written on the rows ``[start, stop)`` of B·Z·Y.
        image_value: outside, with mode constant.
        cubic: whether ``images`` are coefficients.
        pad: (3,) int64, voxels.
        labels: (B, L, V), any type of 1, 2, 4 or 8 bytes.
        label_out: (B, L, Z, Y, X), the same type.
        label_value: outside, with mode constant.
    """
    nz, ny, nx = image_out.shape[2:] if image_out.shape[1] > 0 else label_out.shape[2:]
    group = max(1, min(ny, GROUP // nx))
    held = -(-group * nx // BLOCK)
    c = np.zeros((3, (held + 1) * BLOCK), f32)
    f = np.empty((3, held * BLOCK), f32)
    weights = np.empty((12 if cubic else 0, held * BLOCK), f32)
    corner, nearest = np.empty(held * BLOCK, np.int32), np.empty(held * BLOCK, np.int32)
    inside = np.empty(held, np.uint8)
    values = np.empty(held * BLOCK, f32)
    stride, padded = _strides(shape, np.zeros(3, np.int64)), _strides(shape, pad)
    elastic = lattice.shape[2] > 0
    ly, lx = max(4, lattice.shape[3]), max(4, lattice.shape[4])
    points = np.empty((3, ly, lx), f32)
    plane = np.zeros((ly, -(-12 * (lx - 3) // BLOCK) * BLOCK), f32)
    line = np.empty(plane.shape[1], f32)
    w = np.empty(4, f32)
    intervals = _intervals(origin[start // (nz * ny), 2], step[start // (nz * ny), 2], nx, lx)
    along = f32(0), f32(0), f32(0)
    last = -1
    row = start
    while row < stop:
        y = row % ny
        z = row // ny % nz
        b = row // (ny * nz)
        if row // ny != last:
            last = row // ny
            along = f32(matrix[b, 0, 2]), f32(matrix[b, 1, 2]), f32(matrix[b, 2, 2])
            if elastic:
                if z == 0:
                    intervals = _intervals(origin[b, 2], step[b, 2], nx, lx)
                first = spline_weights(origin[b, 0] + z / step[b, 0], w)
                _combine(lattice, b, first, w, points)
                _polynomials(points, plane)
        rows = min(group, ny - y, stop - row)
        for i in range(rows):
            base = _base(matrix, b, 0, z, y + i), _base(matrix, b, 1, z, y + i), _base(matrix, b, 2, z, y + i)
            if elastic:
                first = spline_weights(origin[b, 1] + (y + i) / step[b, 1], w)
                for at in range(0, line.shape[0], BLOCK):
                    _combine_block(plane, plane.shape[1], first, at, w[0], w[1], w[2], w[3], line)
                _coordinates(line, intervals, step[b, 2], base, along, c, i * nx)
            else:
                for at in range(0, nx, BLOCK):
                    _affine_block(c, c.shape[1], i * nx + at, at, base, along)
        row += rows
        n = rows * nx
        blocks = -(-n // BLOCK)
        if mode != 0:
            for a in range(3):
                _map_row(c[a, :n], shape[a], mode)
        seen = _locate(c, shape, stride, mode, blocks, f, corner, nearest, inside)
        for k in range(labels.shape[1]):
            _nearest(labels[b, k], nearest, inside, label_out[b, k, z, y : y + rows].reshape(-1), label_value)
        if cubic and seen:
            _locate_cubic(c, shape, pad, padded, blocks, corner, weights)
        for k in range(images.shape[1]):
            if not seen:
                values[:n] = image_value
            elif cubic:
                _cubic(images[b, k], corner, weights, padded, inside, blocks, values, image_value)
            elif shape[2] > 1:
                _linear(images[b, k], corner, f, stride, inside, blocks, values, image_value)
            else:
                _bilinear(images[b, k], corner, f, stride, inside, n, values, image_value)
            image_out[b, k, z, y : y + rows].reshape(-1)[:] = values[:n]


@_compiled
def spline_weights(position, w):  # type: ignore[no-untyped-def]
    """Weights of the four control points that reach a lattice position; returns the index of the first."""
    first = int(np.floor(position))
    u = position - first
    w[0], w[1], w[2], w[3] = _weights(f32(u))
    return first


@_compiled
def _weights(u):  # type: ignore[no-untyped-def]
    sixth, half, two_thirds, one = f32(1 / 6), f32(0.5), f32(2 / 3), f32(1)
    v = one - u
    u2, v2 = u * u, v * v
    return v2 * v * sixth, two_thirds - u2 * (one - half * u), two_thirds - v2 * (one - half * v), u2 * u * sixth


@_compiled
def _strides(shape, pad):  # type: ignore[no-untyped-def]
    """Elements between neighbours along z, y, x; 0 along an axis of one voxel, which is then its own neighbour."""
    size = shape + 2 * pad
    stride = np.array([size[1] * size[2], size[2], 1], np.int64)
    for a in range(3):
        if size[a] == 1:
            stride[a] = 0
    return stride


@_compiled
def _intervals(origin, step, n, length):  # type: ignore[no-untyped-def]
    """First voxel of each knot interval along x (one more at the end), and its place within the interval."""
    knots = np.empty(length - 2, np.int64)
    places = np.empty(length - 3, f32)
    for k in range(length - 2):
        knots[k] = min(n, max(0, int(np.ceil((k - origin) * step))))
    knots[length - 3] = n
    for k in range(length - 3):
        places[k] = f32(origin + knots[k] / step - k)
    return knots, places


@_compiled
def _combine(lattice, b, first, w, out):  # type: ignore[no-untyped-def]
    """Control points of the plane between four planes of them."""
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    for a in range(3):
        for j in range(out.shape[1]):
            for i in range(out.shape[2]):
                near = w0 * lattice[b, a, first, j, i] + w1 * lattice[b, a, first + 1, j, i]
                out[a, j, i] = near + w2 * lattice[b, a, first + 2, j, i] + w3 * lattice[b, a, first + 3, j, i]


@_compiled
def _polynomials(points, out):  # type: ignore[no-untyped-def]
    """Coefficients of the B-spline along x, as a cubic in the place between two knots: by axis, degree, interval."""
    sixth, half, three, four = f32(1 / 6), f32(0.5), f32(3), f32(4)
    n = points.shape[2] - 3
    for j in range(points.shape[1]):
        for a in range(3):
            at = 4 * n * a
            for k in range(n):
                b0, b1, b2, b3 = points[a, j, k], points[a, j, k + 1], points[a, j, k + 2], points[a, j, k + 3]
                out[j, at + k] = (b0 + four * b1 + b2) * sixth
                out[j, at + n + k] = (b2 - b0) * half
                out[j, at + 2 * n + k] = (b0 + b2) * half - b1
                out[j, at + 3 * n + k] = (b3 - b0 + three * (b1 - b2)) * sixth


@_compiled
def _base(matrix, b, a, z, y):  # type: ignore[no-untyped-def]
    """Coordinate along an axis where a row begins, without the displacement."""
    return f32(matrix[b, a, 3] + matrix[b, a, 0] * z + matrix[b, a, 1] * y)


@_compiled
def _coordinates(line, intervals, step, base, along, c, at):  # type: ignore[no-untyped-def]
    """The three coordinates of a row, from ``at`` on: ``base + along · x``, and the cubics of the displacement.

    Whole blocks are written, beyond the knot and the row too, which the next interval or row then overwrites.
    """
    knots, places = intervals
    du = f32(1 / step)
    for k in range(places.shape[0]):
        low, high = knots[k], knots[k + 1]
        for x in range(low, high, BLOCK):
            u = places[k] + f32(np.int32(x - low)) * du
            _cubic_block(c, c.shape[1], at + x, x, base, along, u, du, line, places.shape[0], k)


@_compiled
def _map_row(c, n, mode):  # type: ignore[no-untyped-def]
    """Coordinates outside [0, n − 1] to the place they read, in place: not for mode constant.

    Reflect keeps half a voxel beyond the edges and nearest `NEAREST_REACH` voxels, for cubic interpolation.
    """
    last = np.float32(n - 1)
    outside = np.int32(0)
    for x in range(c.shape[0]):
        outside |= np.int32(not ((c[x] >= np.float32(0)) & (c[x] <= last)))
    if outside == 0:
        return
    low, high = np.float64(0), np.float64(n - 1)
    if mode == 1:
        low, high = low - 0.5, high + 0.5
    elif mode == 3:
        low, high = low - NEAREST_REACH, high + NEAREST_REACH
    for x in range(c.shape[0]):
        v = np.float64(c[x])
        if (v >= 0 and v <= n - 1) or v != v:
            continue
        if n == 1:
            v = np.float64(0)
        elif mode == 1:
            v = (v + 0.5) % (2 * n)
            if v > n:
                v = 2 * n - v
            v -= 0.5
        elif mode == 2:
            v = v % (2 * n - 2)
            if v > n - 1:
                v = 2 * n - 2 - v
        elif mode == 4 and v < 0:  # SciPy's rule on the seam itself: from below the last voxel, from above the first
            v += (n - 1) * (np.floor(-v / (n - 1)) + 1)
        elif mode == 4:
            v -= (n - 1) * np.floor(v / (n - 1))
        # The remainder of a huge coordinate is lost to rounding: what it reads must still lie within the volume.
        c[x] = np.float32(min(max(v, low), high))


@_compiled
def _locate(c, shape, stride, mode, blocks, f, corner, nearest, inside):  # type: ignore[no-untyped-def]
    """Offsets of the lower corner and of the nearest voxel, weights of the upper corner, which voxels lie inside; if any.

    Offsets are those of the closest voxels where a coordinate lies outside. The last voxel is reached with weight 1 from
    the one before it, so that no corner lies outside.
    """
    ends = f32(shape[0] - 1), f32(shape[1] - 1), f32(shape[2] - 1)
    lasts = f32(max(shape[0] - 2, 0)), f32(max(shape[1] - 2, 0)), f32(max(shape[2] - 2, 0))
    steps = np.int32(stride[0]), np.int32(stride[1]), np.int32(stride[2])
    slack = f32(0) if mode == 0 else f32(np.inf)  # of the other modes, all coordinates read something
    seen = False
    for block in range(blocks):
        at = block * BLOCK
        bits = _locate_block(c, c.shape[1], at, ends, lasts, steps, slack, f, f.shape[1], corner, nearest)
        inside[block] = bits
        seen |= bits != 0
    return seen


@_compiled
def _nearest(source, nearest, inside, out, value):  # type: ignore[no-untyped-def]
    whole = out.shape[0] // BLOCK
    for block in range(whole):
        at = block * BLOCK
        if inside[block] == ALL:
            for x in range(at, at + BLOCK):
                out[x] = source[np.uintp(nearest[x])]
        else:
            for x in range(at, at + BLOCK):
                out[x] = source[np.uintp(nearest[x])] if inside[block] >> (x - at) & 1 else value
    for x in range(whole * BLOCK, out.shape[0]):
        out[x] = source[np.uintp(nearest[x])] if inside[whole] >> (x - whole * BLOCK) & 1 else value


@_compiled
def _linear(source, corner, f, stride, inside, blocks, out, value):  # type: ignore[no-untyped-def]
    sz, sy = np.uintp(stride[0]), np.uintp(stride[1])
    for block in range(blocks):
        at = block * BLOCK
        if inside[block] == 0:
            out[at : at + BLOCK] = value
        else:
            _linear_block(source, corner, at, sz, sy, f, f.shape[1], inside[block], value, out)


@_compiled
def _bilinear(source, corner, f, stride, inside, n, out, value):  # type: ignore[no-untyped-def]
    """`_linear` where x has one voxel, and so no neighbour to be loaded with it."""
    sz, sy = np.uintp(stride[0]), np.uintp(stride[1])
    one = f32(1)
    for x in range(n):
        p = np.uintp(corner[x])
        u, v = f[0, x], f[1, x]
        near = source[p] * (one - v) + source[p + sy] * v
        far = source[p + sz] * (one - v) + source[p + sz + sy] * v
        out[x] = near * (one - u) + far * u if inside[x // BLOCK] >> (x % BLOCK) & 1 else value


@_compiled
def _locate_cubic(c, shape, pad, stride, blocks, corner, weights):  # type: ignore[no-untyped-def]
    """Offset of the first of 4×4×4 coefficients, and the weights of four along z, y and x."""
    steps = np.int32(stride[0]), np.int32(stride[1]), np.int32(stride[2])
    shift = np.int32((pad[0] - 1) * stride[0] + (pad[1] - 1) * stride[1] + (pad[2] - 1) * stride[2])
    # Where a coordinate lies farther outside than the coefficients reach, what is read is not used.
    lows = f32(1 - pad[0]), f32(1 - pad[1]), f32(1 - pad[2])
    highs = f32(shape[0] + pad[0] - 3), f32(shape[1] + pad[1] - 3), f32(shape[2] + pad[2] - 3)
    for block in range(blocks):
        _locate_cubic_block(c, c.shape[1], block * BLOCK, lows, highs, steps, shift, corner)
    for a in range(3):
        row, low, high = c[a], lows[a], highs[a]
        first, second, third, fourth = weights[4 * a], weights[4 * a + 1], weights[4 * a + 2], weights[4 * a + 3]
        for x in range(blocks * BLOCK):
            u = row[x] - min(max(np.floor(row[x]), low), high)
            first[x], second[x], third[x], fourth[x] = _weights(u)


@_compiled
def _cubic(source, corner, weights, stride, inside, blocks, out, value):  # type: ignore[no-untyped-def]
    sz, sy = np.uintp(stride[0]), np.uintp(stride[1])
    for block in range(blocks):
        at = block * BLOCK
        if inside[block] == 0:
            out[at : at + BLOCK] = value
        else:
            for x in range(at, at + BLOCK, 4):
                _tricubic_block(source, corner, x, sz, sy, weights, weights.shape[1], out)
            if inside[block] != ALL:
                for x in range(BLOCK):
                    if not inside[block] >> x & 1:
                        out[at + x] = value


# The vector instructions. Each stub below has numba's typing context as its first argument, which callers do not give.
_emitted: Any = intrinsic
_F, _I = types.float32, types.intp
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


class _Vectors:
    """LLVM's builder, with loads and stores of several neighbours and what is done with them."""

    def __init__(self, context: Any, builder: Any, signature: Any) -> None:
        self.context, self.builder, self.signature = context, builder, signature

    def array(self, number: int, values: Any) -> Any:
        """Address of the first element of an argument."""
        return self.context.make_array(self.signature.args[number])(self.context, self.builder, values[number]).data

    def row(self, number: int, width: Any, at: Any) -> Any:
        """Flat index of an element of a (…, width) array."""
        return self.builder.add(self.builder.mul(width, ir.Constant(_INT64, number)), at)

    def load(self, address: Any, at: Any, lanes: int) -> Any:
        place = self.builder.gep(address, [at])
        vector = ir.VectorType(place.type.pointee, lanes)
        loaded = self.builder.load(self.builder.bitcast(place, vector.as_pointer()))
        loaded.align = 4
        return loaded

    def store(self, value: Any, address: Any, at: Any) -> None:
        place = self.builder.bitcast(self.builder.gep(address, [at]), value.type.as_pointer())
        self.builder.store(value, place).align = 4

    def splat(self, value: Any, lanes: int = BLOCK) -> Any:
        vector = ir.VectorType(value.type, lanes)
        first = self.builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_INT32, 0))
        return self.pick(first, first, [0] * lanes)

    def pick(self, a: Any, b: Any, places: list[int]) -> Any:
        """Elements of ``a`` followed by ``b``."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT32, len(places)), places))

    def join(self, parts: list[Any]) -> Any:
        while len(parts) > 1:
            n = 2 * parts[0].type.count
            parts = [self.pick(a, b, list(range(n))) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def low(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def high(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def floor(self, a: Any) -> Any:
        module = self.builder.module
        kind = ir.FunctionType(a.type, [a.type])
        name = f"llvm.floor.v{a.type.count}f32"
        function = module.globals.get(name) or ir.Function(module, kind, name)
        return self.builder.call(function, [a])

    def mix(self, a: Any, b: Any, weight: Any) -> Any:
        """a (1 − weight) + b weight."""
        one = ir.Constant(weight.type, [1.0] * weight.type.count)
        rest = self.builder.fsub(one, weight)
        return self.builder.fadd(self.builder.fmul(a, rest), self.builder.fmul(b, weight))

    def ramp(self) -> Any:
        return ir.Constant(ir.VectorType(ir.FloatType(), BLOCK), [float(i) for i in range(BLOCK)])

    def affine(self, x: Any, base: Any, along: Any) -> list[Any]:
        """base + along · (x, x + 1, …) for the three numbers of each."""
        at = self.builder.fadd(self.splat(self.builder.sitofp(x, ir.FloatType())), self.ramp())
        parts = [[self.splat(self.builder.extract_value(numbers, a)) for numbers in (base, along)] for a in range(3)]
        return [self.builder.fadd(start, self.builder.fmul(slope, at)) for start, slope in parts]

    def offset(self, places: list[Any], steps: list[Any]) -> Any:
        """Σ place · step, places being whole numbers held as float32."""
        vector = ir.VectorType(_INT32, places[0].type.count)
        total = None
        for place, step in zip(places, steps, strict=True):
            term = self.builder.mul(self.builder.fptosi(place, vector), self.splat(step))
            total = term if total is None else self.builder.add(total, term)
        return total

    def index(self, address: Any, at: Any, lane: int) -> Any:
        """One 32-bit offset, as wide as addresses are."""
        place = self.builder.gep(address, [self.builder.add(at, ir.Constant(_INT64, lane))])
        return self.builder.zext(self.builder.load(place), _INT64)


@_emitted
def _combine_block(typing: Any, rows: Any, width: Any, first: Any, at: Any, w0: Any, w1: Any, w2: Any, w3: Any, out: Any) -> Any:
    """out[at : at + BLOCK] = Σ w_i rows[first + i, at : at + BLOCK]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _Vectors(context, builder, signature)
        width, first, at, *weights = arguments[1:8]
        total = None
        for i, weight in enumerate(weights):
            row = builder.add(builder.mul(builder.add(first, ir.Constant(_INT64, i)), width), at)
            term = builder.fmul(vectors.load(vectors.array(0, arguments), row, BLOCK), vectors.splat(weight))
            total = term if total is None else builder.fadd(total, term)
        vectors.store(total, vectors.array(8, arguments), at)
        return context.get_dummy_value()

    return types.void(rows, _I, _I, _I, _F, _F, _F, _F, out), generate


@_emitted
def _affine_block(typing: Any, c: Any, c_width: Any, at: Any, x: Any, base: Any, along: Any) -> Any:
    """c[a, at : at + BLOCK] = base_a + along_a · (x, x + 1, …)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _Vectors(context, builder, signature)
        c_width, at, x, base, along = arguments[1:]
        for a, value in enumerate(vectors.affine(x, base, along)):
            vectors.store(value, vectors.array(0, arguments), vectors.row(a, c_width, at))
        return context.get_dummy_value()

    numbers = types.UniTuple(_F, 3)
    return types.void(c, _I, _I, _I, numbers, numbers), generate


@_emitted
def _cubic_block(
    typing: Any, c: Any, c_width: Any, at: Any, x: Any, base: Any, along: Any, u: Any, du: Any, line: Any, count: Any, k: Any
) -> Any:
    """`_affine_block` + ((p3 v + p2) v + p1) v + p0, v = u, u + du, u + 2 du, …, p = line[a, :, k] of (3, 4, count)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _Vectors(context, builder, signature)
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

    numbers = types.UniTuple(_F, 3)
    return types.void(c, _I, _I, _I, numbers, numbers, _F, _F, line, _I, _I), generate


@_emitted
def _locate_block(
    typing: Any, c: Any, c_width: Any, at: Any, ends: Any, lasts: Any, steps: Any, slack: Any,
    f: Any, f_width: Any, corner: Any, nearest: Any,
) -> Any:  # fmt: skip
    """`_locate` for one block; returns a bit for each voxel inside."""
    numbers, whole = types.UniTuple(_F, 3), types.UniTuple(types.int32, 3)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _Vectors(context, builder, signature)
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

    signature = types.uint8(c, _I, _I, numbers, numbers, whole, _F, f, _I, corner, nearest)
    return signature, generate


@_emitted
def _linear_block(
    typing: Any, source: Any, corner: Any, at: Any, sz: Any, sy: Any, f: Any, f_width: Any, inside: Any, value: Any, out: Any
) -> Any:
    """Eight corners of each voxel, a pair of neighbours along x in one load: first between y, then z, then x."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _Vectors(context, builder, signature)
        at, sz, sy = arguments[2:5]
        data, offsets = vectors.array(0, arguments), vectors.array(1, arguments)
        corners = [builder.gep(data, [step]) for step in (ir.Constant(_INT64, 0), sy, sz, builder.add(sz, sy))]
        fz, fy, fx = (vectors.load(vectors.array(5, arguments), vectors.row(a, arguments[6], at), BLOCK) for a in range(3))
        halves = []
        for first in (0, BLOCK // 2):
            lanes = range(first, first + BLOCK // 2)
            index = [vectors.index(offsets, at, lane) for lane in lanes]
            p00, p01, p10, p11 = (vectors.join([vectors.load(corner, p, 2) for p in index]) for corner in corners)
            twice = [lane for lane in lanes for _ in range(2)]
            y, z = vectors.pick(fy, fy, twice), vectors.pick(fz, fz, twice)
            halves.append(vectors.mix(vectors.mix(p00, p01, y), vectors.mix(p10, p11, y), z))
        near, far = (vectors.pick(*halves, list(range(first, 2 * BLOCK, 2))) for first in (0, 1))
        bits = builder.bitcast(arguments[7], ir.VectorType(ir.IntType(1), BLOCK))
        result = builder.select(bits, vectors.mix(near, far, fx), vectors.splat(arguments[8]))
        vectors.store(result, vectors.array(9, arguments), at)
        return context.get_dummy_value()

    return types.void(source, corner, _I, types.uintp, types.uintp, f, _I, types.uint8, _F, out), generate


@_emitted
def _locate_cubic_block(
    typing: Any, c: Any, c_width: Any, at: Any, lows: Any, highs: Any, steps: Any, shift: Any, corner: Any
) -> Any:
    """corner[at : at + BLOCK] = Σ floor(c) · step + shift, floor(c) being kept within [lows, highs]."""
    numbers, whole = types.UniTuple(_F, 3), types.UniTuple(types.int32, 3)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _Vectors(context, builder, signature)
        at, lows, highs, steps, shift = arguments[2:7]
        places = []
        for a in range(3):
            low, high = (vectors.splat(builder.extract_value(limit, a)) for limit in (lows, highs))
            c = vectors.floor(vectors.load(vectors.array(0, arguments), vectors.row(a, arguments[1], at), BLOCK))
            places.append(vectors.high(vectors.low(c, high), low))
        offset = vectors.offset(places, [builder.extract_value(steps, a) for a in range(3)])
        vectors.store(builder.add(offset, vectors.splat(shift)), vectors.array(7, arguments), at)
        return context.get_dummy_value()

    return types.void(c, _I, _I, numbers, numbers, whole, types.int32, corner), generate


@_emitted
def _tricubic_block(
    typing: Any, source: Any, corner: Any, at: Any, sz: Any, sy: Any, weights: Any, w_width: Any, out: Any
) -> Any:
    """Sums of 4×4×4 coefficients for four voxels: along y and z with the four along x in one load, then along x."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = _Vectors(context, builder, signature)
        at, sz, sy = arguments[2:5]
        data, offsets, table = (vectors.array(i, arguments) for i in (0, 1, 5))
        rows = [vectors.row(k, arguments[6], at) for k in range(12)]
        sums = []
        for lane in range(4):
            place = vectors.index(offsets, at, lane)
            own = ir.Constant(_INT64, lane)
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

    return types.void(source, corner, _I, types.uintp, types.uintp, weights, _I, out), generate
