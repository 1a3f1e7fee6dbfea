"""What a 1×1×1 filter does to `ROWS` channels of `COLUMNS` voxels, as vector instructions: the inside of a matrix product.

Twelve sums stay in registers while a loop walks over the channels that are summed, or over the voxels.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from custom_components.kernels.stencil_blocks import multiply_add
from custom_components.kernels.vectors import BLOCK, INT64, INTP, Vectors, emitted

__all__ = ["COLUMNS", "PARTNERS", "ROWS", "copy_columns", "multiply_columns", "multiply_rows"]

ROWS = 4
COLUMNS = 3 * BLOCK
PARTNERS = 3


def _number(value: int) -> ir.Constant:
    return ir.Constant(INT64, value)


class _Sums:
    """Vectors that live through a loop; LLVM keeps them in registers."""

    def __init__(self, vectors: Vectors, start: list[Any]) -> None:
        self.vectors = vectors
        self.places = [cgutils.alloca_once_value(vectors.builder, value) for value in start]

    def add(self, number: int, a: Any, b: Any) -> None:
        builder, place = self.vectors.builder, self.places[number]
        builder.store(multiply_add(builder, a, b, builder.load(place)), place)

    def values(self) -> list[Any]:
        return [self.vectors.builder.load(place) for place in self.places]


@emitted
def copy_columns(typing: Any, source: Any, start: Any, target: Any, at: Any) -> Any:
    """target[at : at + COLUMNS] = source[start : start + COLUMNS], flat float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        for i in range(0, COLUMNS, BLOCK):
            values = vectors.load(vectors.array(0, arguments), builder.add(arguments[1], _number(i)), BLOCK)
            vectors.store(values, vectors.array(2, arguments), builder.add(arguments[3], _number(i)))
        return context.get_dummy_value()

    return types.void(source, INTP, target, INTP), generate


@emitted
def multiply_columns(
    typing: Any, panel: Any, start: Any, count: Any, filters: Any, first: Any, bias: Any, row: Any, out: Any, at: Any, pitch: Any
) -> Any:
    """out[r, :] = bias[r] + Σ_k filters[k, r] · panel[k, :], for `ROWS` rows r of `COLUMNS` voxels.

    Args:
        panel: flat float32; from ``start`` on (count, COLUMNS).
        filters: flat; from ``first`` on (count, ROWS).
        bias: its first is at ``row``.
        out: flat; its first is at ``at``, its rows are ``pitch`` apart.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        data, weights, offsets = (vectors.array(i, arguments) for i in (0, 3, 5))

        def scalar(address: Any, base: Any, number: int) -> Any:
            return vectors.splat(builder.load(builder.gep(address, [builder.add(base, _number(number))])))

        biases = [scalar(offsets, arguments[6], r) for r in range(ROWS)]
        sums = _Sums(vectors, [biases[r] for r in range(ROWS) for _ in range(0, COLUMNS, BLOCK)])
        with cgutils.for_range(builder, arguments[2]) as loop:
            base = builder.add(arguments[1], builder.mul(loop.index, _number(COLUMNS)))
            values = [vectors.load(data, builder.add(base, _number(i)), BLOCK) for i in range(0, COLUMNS, BLOCK)]
            taps = builder.add(arguments[4], builder.mul(loop.index, _number(ROWS)))
            for r in range(ROWS):
                weight = scalar(weights, taps, r)
                for j, value in enumerate(values):
                    sums.add(r * len(values) + j, value, weight)
        for number, total in enumerate(sums.values()):
            r, j = divmod(number, COLUMNS // BLOCK)
            place = builder.add(vectors.row(r, arguments[9], arguments[8]), _number(j * BLOCK))
            vectors.store(total, vectors.array(7, arguments), place)
        return context.get_dummy_value()

    return types.void(panel, INTP, INTP, filters, INTP, bias, INTP, out, INTP, INTP), generate


@emitted
def multiply_rows(typing: Any, a: Any, first: Any, b: Any, second: Any, width: Any, sums: Any, at: Any) -> Any:
    """sums[r, s, :] += a[r, v : v + BLOCK] · b[s, v : v + BLOCK] over v, for `ROWS` rows of a and `PARTNERS` of b.

    Args:
        a, b: flat float32, rows of ``width`` voxels (whole blocks), from ``first`` and ``second`` on.
        sums: flat; from ``at`` on (ROWS, PARTNERS, BLOCK).
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        left, right, totals = (vectors.array(i, arguments) for i in (0, 2, 5))
        places = [builder.add(arguments[6], _number(i * BLOCK)) for i in range(ROWS * PARTNERS)]
        held = _Sums(vectors, [vectors.load(totals, place, BLOCK) for place in places])
        with cgutils.for_range(builder, builder.sdiv(arguments[4], _number(BLOCK))) as loop:
            v = builder.mul(loop.index, _number(BLOCK))
            starts = [builder.add(v, arguments[i]) for i in (1, 3)]
            partners = [vectors.load(right, vectors.row(s, arguments[4], starts[1]), BLOCK) for s in range(PARTNERS)]
            for r in range(ROWS):
                value = vectors.load(left, vectors.row(r, arguments[4], starts[0]), BLOCK)
                for s, partner in enumerate(partners):
                    held.add(r * PARTNERS + s, value, partner)
        for place, total in zip(places, held.values(), strict=True):
            vectors.store(total, totals, place)
        return context.get_dummy_value()

    return types.void(a, INTP, b, INTP, INTP, sums, INTP), generate
