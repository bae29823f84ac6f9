"""Vectors of 16 float32 lanes as a numba type, and the elementary functions the scan needs of them.

Numba's automatic vectoriser gives up on loops as long as the scan's, so the kernels say what is a vector: LLVM maps
the type to whatever the CPU has (one AVX-512 register, two of AVX2, four of NEON). Operators take vectors and scalars.

After a change here, `SIMD_SHA256` in `numba_kernels` must follow (a test says how), or numba's disk cache stays stale.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, overload, register_model

LANES = 16

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)
# a * b + c may become one instruction; nothing else may be changed
_FLAGS = ("contract",)

inline = njit(inline="always")


class _Float32x16(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


float32x16 = _Float32x16()


@register_model(_Float32x16)
class _Float32x16Model(models.PrimitiveModel):
    def __init__(self, manager: Any, type_: Any) -> None:
        super().__init__(manager, type_, _FLOATS)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [value] * LANES)


def _integers(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [value] * LANES)


@intrinsic
def splat(typingctx, x):
    """All lanes equal to a scalar."""

    def codegen(context, builder, signature, args):
        one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), args[0], _INT(0))
        return builder.shuffle_vector(one, ir.Constant(_FLOATS, ir.Undefined), _integers(0))

    return float32x16(types.float32), codegen


def _pointer(builder: Any, args: Any, pointee: Any) -> Any:
    """A pointer from an address (of float32) and an index."""
    floats = builder.inttoptr(args[0], _FLOAT.as_pointer())
    return builder.bitcast(builder.gep(floats, [args[1]]), pointee.as_pointer())


@intrinsic
def load(typingctx, address, index):
    """The 16 float32 that begin at an index of an address."""

    def codegen(context, builder, signature, args):
        return builder.load(_pointer(builder, args, _FLOATS), align=4)

    return float32x16(types.intp, types.intp), codegen


@intrinsic
def store(typingctx, address, index, x):
    """Write 16 float32 at an index of an address."""

    def codegen(context, builder, signature, args):
        builder.store(args[2], _pointer(builder, args, _FLOATS), align=4)

    return types.void(types.intp, types.intp, float32x16), codegen


@intrinsic
def value(typingctx, address, index):
    """The float32 at an index of an address."""

    def codegen(context, builder, signature, args):
        return builder.load(_pointer(builder, args, _FLOAT))

    return types.float32(types.intp, types.intp), codegen


@intrinsic
def byte(typingctx, address, index):
    """The byte at an index of an address."""

    def codegen(context, builder, signature, args):
        data = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        return builder.load(builder.gep(data, [args[1]]))

    return types.uint8(types.intp, types.intp), codegen


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(lanes)), lanes))


def _piece(size: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """How to put `size` numbers of memory before the lanes of a vector, and how to write and drop its first ones."""
    part = ir.VectorType(_FLOAT, size)

    @intrinsic
    def put_before(typingctx, address, index, x):
        def codegen(context, builder, signature, args):
            loaded = builder.load(_pointer(builder, args, part), align=4)
            widened = _shuffle(builder, loaded, loaded, [i % size for i in range(LANES)])
            return _shuffle(builder, widened, args[2], [*range(size), *range(LANES, 2 * LANES - size)])

        return float32x16(types.intp, types.intp, float32x16), codegen

    @intrinsic
    def write_first(typingctx, address, index, x):
        def codegen(context, builder, signature, args):
            first = _shuffle(builder, args[2], args[2], list(range(size)))
            builder.store(first, _pointer(builder, args, part), align=4)
            return _shuffle(builder, args[2], _constant(0.0), list(range(size, LANES + size)))

        return float32x16(types.intp, types.intp, float32x16), codegen

    return put_before, write_first


_load_8, _store_8 = _piece(8)
_load_4, _store_4 = _piece(4)
_load_2, _store_2 = _piece(2)
_load_1, _store_1 = _piece(1)


@inline
def load_part(address, index, width):
    """`load` of the first `width` lanes, 1 to 16; the others are 0, and no memory beyond them is read."""
    if width == LANES:
        return load(address, index)
    x = splat(types.float32(0.0))
    index += width
    if width & 1:
        index -= 1
        x = _load_1(address, index, x)
    if width & 2:
        index -= 2
        x = _load_2(address, index, x)
    if width & 4:
        index -= 4
        x = _load_4(address, index, x)
    if width & 8:
        x = _load_8(address, index - 8, x)
    return x


@inline
def store_part(address, index, width, x):
    """`store` of the first `width` lanes, 1 to 16."""
    if width == LANES:
        store(address, index, x)
    else:
        if width & 8:
            x = _store_8(address, index, x)
            index += 8
        if width & 4:
            x = _store_4(address, index, x)
            index += 4
        if width & 2:
            x = _store_2(address, index, x)
            index += 2
        if width & 1:
            _store_1(address, index, x)


@intrinsic
def total(typingctx, x):
    """The sum of the lanes, added pairwise in a fixed order."""

    def codegen(context, builder, signature, args):
        value = args[0]
        for width in (8, 4, 2, 1):
            lower, upper = (_shuffle(builder, value, value, [first + i for i in range(width)]) for first in (0, width))
            value = builder.fadd(lower, upper, flags=_FLAGS)
        return builder.extract_element(value, _INT(0))

    return types.float32(float32x16), codegen


def _register(operation: Callable[..., Any], instruction: str) -> None:
    @intrinsic
    def vectors(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, instruction)(*args, flags=_FLAGS)

        return float32x16(float32x16, float32x16), codegen

    @overload(operation, inline="always")
    def of_vectors(a, b):
        if a is float32x16 and b is float32x16:
            return lambda a, b: vectors(a, b)
        if a is float32x16 and isinstance(b, types.Float):
            return lambda a, b: vectors(a, splat(b))
        if b is float32x16 and isinstance(a, types.Float):
            return lambda a, b: vectors(splat(a), b)
        return None


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register(_operation, _instruction)


@intrinsic
def _scale_by_power_of_two(typingctx, x, rounded):
    """X * 2^n, where n stands in the lowest bits of `rounded`: an addition to the exponent's bits."""

    def codegen(context, builder, signature, args):
        exponent = builder.shl(builder.bitcast(args[1], _INTS), _integers(23))
        return builder.bitcast(builder.add(builder.bitcast(args[0], _INTS), exponent), _FLOATS)

    return float32x16(float32x16, float32x16), codegen


@intrinsic
def _clamp_exponent(typingctx, x):
    """Keep 2^x between the smallest normal number and inf; NaN stays NaN."""

    def codegen(context, builder, signature, args):
        x = args[0]
        for comparison, bound in (("<", -125.0), (">", 128.0)):
            x = builder.select(builder.fcmp_ordered(comparison, x, _constant(bound)), _constant(bound), x)
        return x

    return float32x16(float32x16), codegen


@intrinsic
def _minus_absolute(typingctx, x):
    def codegen(context, builder, signature, args):
        sign = builder.or_(builder.bitcast(args[0], _INTS), _integers(-(2**31)))
        return builder.bitcast(sign, _FLOATS)

    return float32x16(float32x16), codegen


@intrinsic
def _if_negative(typingctx, x, then, otherwise):
    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", args[0], _constant(0.0)), *args[1:])

    return float32x16(float32x16, float32x16, float32x16), codegen


_F = types.float32
LOG2_E = 1.4426950408889634
# Added and subtracted again, it rounds to an integer, which it leaves in the lowest bits.
_ROUND = 1.5 * 2**23


@inline
def exp2(x):
    """2^x to 2e-7: at least 2^-125, inf from 128 on, exactly 1 for 0; a minimax polynomial on [-1/2, 1/2]."""
    x = _clamp_exponent(x)
    rounded = x + _F(_ROUND)
    f = x - (rounded - _F(_ROUND))
    p = f * _F(1.534581182189188e-4) + _F(1.3399931217660706e-3)
    p = p * f + _F(9.618488957786107e-3)
    p = p * f + _F(5.550328776969926e-2)
    p = p * f + _F(2.402264689062784e-1)
    p = p * f + _F(6.931472057372654e-1)
    p = p * f + _F(1.0)
    return _scale_by_power_of_two(p, rounded)


@inline
def sigmoid(x):
    """1 / (1 + e^-x), accurate in both tails."""
    e = exp2(_minus_absolute(x) * _F(LOG2_E))
    return _if_negative(x, e, splat(_F(1.0))) / (e + _F(1.0))


@inline
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log1p(e), with log1p(e) = 2 artanh(e / (2 + e)) by its odd power series."""
    e = exp2(_minus_absolute(x) * _F(LOG2_E))
    w = e / (e + _F(2.0))
    w2 = w * w
    p = w2 * _F(1 / 15) + _F(1 / 13)
    p = p * w2 + _F(1 / 11)
    p = p * w2 + _F(1 / 9)
    p = p * w2 + _F(1 / 7)
    p = p * w2 + _F(1 / 5)
    p = p * w2 + _F(1 / 3)
    p = p * w2 + _F(1.0)
    return _if_negative(x, splat(_F(0.0)), x) + p * w * _F(2.0)
