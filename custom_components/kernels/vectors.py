"""Vector instructions for numba's functions, where its own vectoriser falls short.

numba leaves loops of a few iterations, and what a long loop has left over, to scalar instructions, widens 32-bit integers
to 64, and takes neighbours one by one. A function under `emitted` writes LLVM's instructions itself, `BLOCK` voxels at a
time; in a loop of numba's it is inlined.

numba's cache does not see changes in functions of another file. So a file that uses these functions, or others that build
on them, holds a ``STAMP`` of the files that they are in: whoever changes those must change it too, and a test says to what.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["BLOCK", "FLOAT", "INT32", "INT64", "INTP", "Vectors", "combine_rows_block", "emitted"]

# Its stubs have numba's typing context as their first argument, which callers do not give.
emitted: Any = intrinsic
BLOCK = 8  # voxels of one vector instruction, or of a few where they are shorter
FLOAT, INTP = types.float32, types.intp
INT32, INT64 = ir.IntType(32), ir.IntType(64)


class Vectors:
    """LLVM's builder, with loads and stores of several neighbours and what is done with them."""

    def __init__(self, context: Any, builder: Any, signature: Any) -> None:
        self.context, self.builder, self.signature = context, builder, signature

    def array(self, number: int, values: Any) -> Any:
        """Address of the first element of an argument."""
        return self.context.make_array(self.signature.args[number])(self.context, self.builder, values[number]).data

    def row(self, number: int, width: Any, at: Any) -> Any:
        """Flat index of an element of a (…, width) array."""
        return self.builder.add(self.builder.mul(width, ir.Constant(INT64, number)), at)

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
        first = self.builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(INT32, 0))
        return self.pick(first, first, [0] * lanes)

    def pick(self, a: Any, b: Any, places: list[int]) -> Any:
        """Elements of ``a`` followed by ``b``."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(places)), places))

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
        vector = ir.VectorType(INT32, places[0].type.count)
        total = None
        for place, step in zip(places, steps, strict=True):
            term = self.builder.mul(self.builder.fptosi(place, vector), self.splat(step))
            total = term if total is None else self.builder.add(total, term)
        return total

    def index(self, address: Any, at: Any, lane: int) -> Any:
        """One 32-bit offset, as wide as addresses are."""
        place = self.builder.gep(address, [self.builder.add(at, ir.Constant(INT64, lane))])
        return self.builder.zext(self.builder.load(place), INT64)


@emitted
def combine_rows_block(typing: Any, rows: Any, places: Any, at: Any, w0: Any, w1: Any, w2: Any, w3: Any, out: Any) -> Any:
    """out[at : at + BLOCK] = Σ w_i rows[places_i + at : … + BLOCK], of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(context, builder, signature)
        total = None
        for i, weight in enumerate(arguments[3:7]):
            row = vectors.load(
                vectors.array(0, arguments), builder.add(builder.extract_value(arguments[1], i), arguments[2]), BLOCK
            )
            term = builder.fmul(row, vectors.splat(weight))
            total = term if total is None else builder.fadd(total, term)
        vectors.store(total, vectors.array(7, arguments), arguments[2])
        return context.get_dummy_value()

    return types.void(rows, types.UniTuple(INTP, 4), INTP, FLOAT, FLOAT, FLOAT, FLOAT, out), generate
