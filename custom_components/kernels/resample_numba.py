"""One-pass resampling on the CPU (numba): coordinates are computed row by row in the sampling loop and never stored.

A row is all output voxels of one (sample, z, y). Along it the B-spline displacement is a cubic polynomial between two
control points, so coordinates cost three multiply-adds per voxel and axis. Then offsets and weights of the row are found
(vectorised), and every channel is gathered with them.

The functions work on ``[start, stop)`` of the flattened rows and release the GIL. No ``fastmath``: the arithmetic is the
same on every machine. All of it is in one file: numba's cache does not see changes in functions of another one.
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
_emitted: Any = intrinsic  # its stubs count the typing context as an argument of the caller
_INT32 = ir.IntType(32)
BLOCK = 8  # voxels of one vector instruction, or of a few where they are shorter
ROW = 32
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
    # Rows are filled up to whole vectors: what is left over of a loop would be done voxel by voxel.
    filled = -(-nx // ROW) * ROW
    c = np.zeros((3, filled + BLOCK), f32)
    cz, cy, cx = c[0], c[1], c[2]
    f = np.empty((3, filled), f32)
    fz, fy, fx = f[0], f[1], f[2]
    base = np.empty(filled, np.int32)
    nearest = np.empty(filled, np.int32)
    stride = _strides(shape, np.zeros(3, np.int64))
    stride3 = _strides(shape, pad)
    ly, lx = lattice.shape[3:]
    plane = np.empty((3, ly, lx), f32)
    line = np.empty((3, lx), f32)
    w = np.empty(4, f32)
    knots, phases = _intervals(origin[start // (nz * ny), 2], step[start // (nz * ny), 2], nx, lx)
    along = np.empty(3)
    at = np.empty(3)
    last = -1
    for row in range(start, stop):
        y = row % ny
        z = row // ny % nz
        b = row // (ny * nz)
        if row // ny != last:
            last = row // ny
            if z == 0:
                knots, phases = _intervals(origin[b, 2], step[b, 2], nx, lx)
            first = spline_weights(origin[b, 0] + z / step[b, 0], w)
            for a in range(3):
                for j in range(ly):
                    _combine(lattice[b, a, first : first + 4, j], w, plane[a, j])
        first = spline_weights(origin[b, 1] + y / step[b, 1], w)
        for a in range(3):
            _combine(plane[a, first : first + 4], w, line[a])
            at[a] = matrix[b, a, 3] + matrix[b, a, 0] * z + matrix[b, a, 1] * y
            along[a] = matrix[b, a, 2]
        _coordinates(line, knots, phases, step[b, 2], at, along, cz, cy, cx)
        if mode != 0:
            for a in range(3):
                _map_row(c[a, :nx], shape[a], mode)
        cz[nx:filled], cy[nx:filled], cx[nx:filled] = cz[nx - 1], cy[nx - 1], cx[nx - 1]
        outside = _locate(cz, cy, cx, shape, stride, mode, fz, fy, fx, base, nearest)
        for k in range(labels.shape[1]):
            _nearest(labels[b, k], base, nearest, label_out[b, k, z, y], label_value, outside)
        if cubic:
            if image_out.shape[1] > 0:
                _locate_cubic(cz, cy, cx, nx, pad, stride3, fz, fy, fx, base, nearest)
            for k in range(images.shape[1]):
                _cubic(images[b, k], base, nearest, fz, fy, fx, stride3, image_out[b, k, z, y], image_value, outside)
        else:
            for k in range(images.shape[1]):
                _linear(images[b, k], base, fz, fy, fx, stride, image_out[b, k, z, y], image_value, outside)


@_compiled
def spline_weights(position, w):  # type: ignore[no-untyped-def]
    """Weights of the four control points that reach a lattice position; returns the index of the first."""
    first = int(np.floor(position))
    u = position - first
    w[0], w[1], w[2], w[3] = _weights(f32(u))
    return first


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
    phases = np.empty(length - 3, f32)
    for k in range(length - 2):
        knots[k] = min(n, max(0, int(np.ceil((k - origin) * step))))
    knots[length - 3] = n
    for k in range(length - 3):
        phases[k] = f32(origin + knots[k] / step - k)
    return knots, phases


@_compiled
def _combine(rows, w, out):  # type: ignore[no-untyped-def]
    r0, r1, r2, r3 = rows[0], rows[1], rows[2], rows[3]
    for i in range(out.shape[0]):
        out[i] = w[0] * r0[i] + w[1] * r1[i] + w[2] * r2[i] + w[3] * r3[i]


@_compiled
def _coordinates(line, knots, phases, step, base, along, cz, cy, cx):  # type: ignore[no-untyped-def]
    """c[x] = base + along · x + B-spline of ``line`` at x, for the three axes.

    Between two knots that is one cubic in u = place between them. Whole blocks are written, beyond the knot too, which
    the next interval then overwrites: loops of a fixed length are vector instructions without a remainder.
    """
    sixth, half, three, four = f32(1 / 6), f32(0.5), f32(3), f32(4)
    a = np.empty((3, 4), f32)
    du = f32(1 / step)
    for k in range(phases.shape[0]):
        low, high = knots[k], knots[k + 1]
        if high <= low:
            continue
        u0 = phases[k]
        for axis in range(3):
            b0, b1, b2, b3 = line[axis, k], line[axis, k + 1], line[axis, k + 2], line[axis, k + 3]
            start = base[axis] + along[axis] * (low - np.float64(u0) * step)
            a[axis, 0] = f32(start + (b0 + four * b1 + b2) * sixth)
            a[axis, 1] = f32(along[axis] * step + (b2 - b0) * half)
            a[axis, 2] = (b0 + b2) * half - b1
            a[axis, 3] = (b3 - b0 + three * (b1 - b2)) * sixth
        for block in range(low, high, BLOCK):
            first = f32(np.int32(block - low))
            _cubics(cz, block, first, u0, du, a[0, 0], a[0, 1], a[0, 2], a[0, 3])
            _cubics(cy, block, first, u0, du, a[1, 0], a[1, 1], a[1, 2], a[1, 3])
            _cubics(cx, block, first, u0, du, a[2, 0], a[2, 1], a[2, 2], a[2, 3])


@_emitted
def _cubics(typing: Any, out: Any, at: Any, first: Any, u0: Any, du: Any, a0: Any, a1: Any, a2: Any, a3: Any) -> Any:
    """out[at : at + BLOCK] = ((a3 u + a2) u + a1) u + a0, u = u0 + (first + 0, 1, …) du, in one go.

    numba's vectoriser wants long loops, and leaves the dozen voxels between two knots to scalar instructions.
    """
    f = types.float32
    signature = types.void(out, types.intp, f, f, f, f, f, f, f)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, place, *numbers = arguments
        data = context.make_array(signature.args[0])(context, builder, array).data
        vector = ir.VectorType(ir.FloatType(), BLOCK)
        v_first, v_u0, v_du, v0, v1, v2, v3 = (_splat(builder, vector, n) for n in numbers)
        u = builder.fadd(v_first, ir.Constant(vector, [float(i) for i in range(BLOCK)]))
        u = builder.fadd(v_u0, builder.fmul(u, v_du))
        value = v3
        for coefficient in (v2, v1, v0):
            value = builder.fadd(builder.fmul(value, u), coefficient)
        store = builder.store(value, builder.bitcast(builder.gep(data, [place]), vector.as_pointer()))
        store.align = 4
        return context.get_dummy_value()

    return signature, generate


def _splat(builder: Any, vector: Any, value: Any) -> Any:
    result = ir.Constant(vector, ir.Undefined)
    for i in range(vector.count):
        result = builder.insert_element(result, value, ir.Constant(_INT32, i))
    return result


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
def _locate(cz, cy, cx, shape, stride, mode, fz, fy, fx, base, nearest):  # type: ignore[no-untyped-def]
    """Offset of the lower corner (−1 outside), of the nearest voxel, and weights of the upper corner; whether any is outside."""
    ez, ey, ex = f32(shape[0] - 1), f32(shape[1] - 1), f32(shape[2] - 1)
    # The last voxel is reached with weight 1 from the one before it, so that no corner lies outside.
    lz, ly, lx = f32(max(shape[0] - 2, 0)), f32(max(shape[1] - 2, 0)), f32(max(shape[2] - 2, 0))
    sz, sy, sx = np.int32(stride[0]), np.int32(stride[1]), np.int32(stride[2])
    zero, half, none, minus = f32(0), f32(0.5), np.int32(0), np.int32(-1)
    slack = f32(0) if mode == 0 else f32(np.inf)  # of the other modes, all coordinates read something
    any_outside = np.int32(0)
    for x in range(base.shape[0]):
        z, y, v = cz[x], cy[x], cx[x]
        # NaN compares false and is outside.
        inside = (z >= -slack) & (y >= -slack) & (v >= -slack) & (z <= ez + slack) & (y <= ey + slack) & (v <= ex + slack)
        z, y, v = max(zero, min(z, ez)), max(zero, min(y, ey)), max(zero, min(v, ex))
        iz, iy, ix = min(np.floor(z), lz), min(np.floor(y), ly), min(np.floor(v), lx)
        z -= iz
        y -= iy
        v -= ix
        fz[x], fy[x], fx[x] = z, y, v
        p = np.int32(iz) * sz + np.int32(iy) * sy + np.int32(ix)
        nearest[x] = p + (sz if z >= half else none) + (sy if y >= half else none) + (sx if v >= half else none)
        base[x] = p if inside else minus
        any_outside |= np.int32(not inside)
    return any_outside != 0


@_compiled
def _linear(source, base, fz, fy, fx, stride, out, value, outside):  # type: ignore[no-untyped-def]
    sz, sy, sx = np.uintp(stride[0]), np.uintp(stride[1]), np.uintp(stride[2])
    one = f32(1)
    for x in range(out.shape[0]):
        if outside and base[x] < 0:
            out[x] = value
            continue
        p = np.uintp(base[x])
        v, u, w = fy[x], fz[x], fx[x]
        g, h, t = one - v, one - u, one - w
        near = (source[p] * g + source[p + sy] * v) * h + (source[p + sz] * g + source[p + sz + sy] * v) * u
        p += sx
        far = (source[p] * g + source[p + sy] * v) * h + (source[p + sz] * g + source[p + sz + sy] * v) * u
        out[x] = near * t + far * w


@_compiled
def _nearest(source, base, nearest, out, value, outside):  # type: ignore[no-untyped-def]
    for x in range(out.shape[0]):
        if outside and base[x] < 0:
            out[x] = value
        else:
            out[x] = source[np.uintp(nearest[x])]


@_compiled
def _locate_cubic(cz, cy, cx, nx, pad, stride, fz, fy, fx, base, offset):  # type: ignore[no-untyped-def]
    """Offset of the first of 4×4×4 coefficients, kept where ``base`` says outside, and the place between them."""
    for x in range(nx):
        if base[x] >= 0:
            iz, iy, ix = np.floor(cz[x]), np.floor(cy[x]), np.floor(cx[x])
            fz[x], fy[x], fx[x] = cz[x] - iz, cy[x] - iy, cx[x] - ix
            p = (np.int64(iz) + pad[0] - 1) * stride[0] + (np.int64(iy) + pad[1] - 1) * stride[1]
            offset[x] = np.int32(p + np.int64(ix) + pad[2] - 1)


@_compiled
def _cubic(source, base, offset, fz, fy, fx, stride, out, value, outside):  # type: ignore[no-untyped-def]
    sz, sy = np.uintp(stride[0]), np.uintp(stride[1])
    for x in range(out.shape[0]):
        if outside and base[x] < 0:
            out[x] = value
        else:
            z0, z1, z2, z3 = _weights(fz[x])
            y0, y1, y2, y3 = _weights(fy[x])
            x0, x1, x2, x3 = _weights(fx[x])
            out[x] = _tricubic(source, np.uintp(offset[x]), sz, sy, (z0, z1, z2, z3), (y0, y1, y2, y3), (x0, x1, x2, x3))


@_compiled
def _weights(u):  # type: ignore[no-untyped-def]
    sixth, half, two_thirds, one = f32(1 / 6), f32(0.5), f32(2 / 3), f32(1)
    v = one - u
    u2, v2 = u * u, v * v
    return v2 * v * sixth, two_thirds - u2 * (one - half * u), two_thirds - v2 * (one - half * v), u2 * u * sixth


@_emitted
def _tricubic(typing: Any, source: Any, p: Any, sz: Any, sy: Any, wz: Any, wy: Any, wx: Any) -> Any:
    """Sum of 4×4×4 values, four neighbours along x at a time: numba itself would take each of the 64 alone."""
    four = types.UniTuple(types.float32, 4)
    signature = types.float32(source, types.uintp, types.uintp, types.uintp, four, four, four)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, place, step_z, step_y, *weights = arguments
        data = context.make_array(signature.args[0])(context, builder, array).data
        vector = ir.VectorType(ir.FloatType(), 4)
        z, y, x = ([builder.extract_value(w, i) for i in range(4)] for w in weights)

        total = None
        for i in range(4):
            here = place
            plane = None
            for j in range(4):
                row = builder.load(builder.bitcast(builder.gep(data, [here]), vector.as_pointer()))
                row.align = 4
                term = builder.fmul(row, _splat(builder, vector, y[j]))
                plane = term if plane is None else builder.fadd(plane, term)
                here = builder.add(here, step_y)
            term = builder.fmul(plane, _splat(builder, vector, z[i]))
            total = term if total is None else builder.fadd(total, term)
            place = builder.add(place, step_z)
        along = ir.Constant(vector, ir.Undefined)
        for i in range(4):
            along = builder.insert_element(along, x[i], ir.Constant(_INT32, i))
        total = builder.fmul(total, along)
        a, b, c, d = (builder.extract_element(total, ir.Constant(_INT32, i)) for i in range(4))
        return builder.fadd(builder.fadd(a, b), builder.fadd(c, d))

    return signature, generate
