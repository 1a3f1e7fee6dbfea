"""What a 3×3×3 (or 1×3×3) filter does to `ROWS` rows of `BLOCK` voxels, as vector instructions.

Rows of the output share rows of the input, so that a value that is loaded once meets up to nine taps: the arithmetic, not the
loads, is then the limit. Multiply-adds may be fused where the processor can.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from custom_components.kernels.vectors import BLOCK, FLOAT, INT64, INTP, Vectors, emitted

__all__ = ["ROWS", "dot_block", "filter_block", "multiply_add"]

ROWS = 4
_FUSED = ("contract",)


def multiply_add(builder: Any, a: Any, b: Any, total: Any) -> Any:
    return builder.fadd(builder.fmul(a, b, flags=_FUSED), total, flags=_FUSED)


def _inputs(vectors: Vectors, data: Any, start: Any, pitch: Any) -> Any:
    """(row, column, values) of the `ROWS` + 2 rows and three columns that the taps of a plane meet."""
    builder = vectors.builder
    for row in range(ROWS + 2):
        for column in range(3):
            place = builder.add(vectors.row(row, pitch, start), ir.Constant(INT64, column))
            yield row, column, vectors.load(data, place, BLOCK)


@emitted
def filter_block(typing: Any, source: Any, planes: Any, pitch: Any, taps: Any, bias: Any, out: Any, at: Any, width: Any) -> Any:
    """out[row, at : at + BLOCK] = bias + Σ taps · source, for `ROWS` rows.

    Args:
        source: flat float32.
        planes: 1 or 3 places in it, of the values that the first tap of each plane meets first.
        pitch: from row to row of ``source``.
        taps: flat, nine per plane.
        out: (ROWS, width) float32.
    """
    count = planes.count

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        data, filters = vectors.array(0, arguments), vectors.array(3, arguments)
        sums = [vectors.splat(arguments[4])] * ROWS
        for plane in range(count):
            start = builder.extract_value(arguments[1], plane)
            weights = [vectors.splat(builder.load(builder.gep(filters, [ir.Constant(INT64, 9 * plane + i)]))) for i in range(9)]
            for row, column, values in _inputs(vectors, data, start, arguments[2]):
                for target in range(ROWS):
                    if 0 <= row - target < 3:
                        sums[target] = multiply_add(builder, values, weights[3 * (row - target) + column], sums[target])
        for row, total in enumerate(sums):
            vectors.store(total, vectors.array(5, arguments), vectors.row(row, arguments[7], arguments[6]))
        return context.get_dummy_value()

    return types.void(source, planes, INTP, taps, FLOAT, out, INTP, INTP), generate


@emitted
def dot_block(typing: Any, source: Any, start: Any, pitch: Any, gradient: Any, at: Any, width: Any, sums: Any, plane: Any) -> Any:
    """sums[plane, tap, :] += gradient · what the tap meets, for the nine taps of a plane and `ROWS` rows.

    Args:
        source: flat float32; the first tap meets first what lies at ``start``.
        pitch: from row to row of ``source``.
        gradient: flat float32, `ROWS` rows from ``at`` on, ``width`` apart.
        sums: (planes, 9, BLOCK) float32.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        data, totals = vectors.array(0, arguments), vectors.array(6, arguments)
        first = builder.mul(arguments[7], ir.Constant(INT64, 9 * BLOCK))
        places = [builder.add(first, ir.Constant(INT64, i * BLOCK)) for i in range(9)]
        taps = [vectors.load(totals, place, BLOCK) for place in places]
        rows = [vectors.load(vectors.array(3, arguments), vectors.row(r, arguments[5], arguments[4]), BLOCK) for r in range(ROWS)]
        for row, column, values in _inputs(vectors, data, arguments[1], arguments[2]):
            for target in range(ROWS):
                if 0 <= row - target < 3:
                    tap = 3 * (row - target) + column
                    taps[tap] = multiply_add(builder, values, rows[target], taps[tap])
        for place, total in zip(places, taps, strict=True):
            vectors.store(total, totals, place)
        return context.get_dummy_value()

    return types.void(source, INTP, INTP, gradient, INTP, INTP, sums, INTP), generate
