"""The elementary functions the CPU kernels need, on the vectors of `nstorm.scan.simd`."""

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from nstorm.scan.simd import LANES, constant, float32x16, float32x64, inline, join, splat, split

_FLOATS, _INTS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
_F = types.float32
LOG2_E = 1.4426950408889634
# Added and subtracted again, it rounds to an integer, which it leaves in the lowest bits.
_ROUND = 1.5 * 2**23


def _has_avx512() -> bool:
    """Whether code is generated for this very CPU, and it has AVX-512 with its instructions for floating point."""
    if config.CPU_NAME or config.CPU_FEATURES:
        return False
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("avx512f") and features.get("avx512dq"))


def _call(builder: Any, name: str, args: tuple[Any, ...]) -> Any:
    function = builder.module.globals.get(name)
    if function is None:
        signature = ir.FunctionType(_FLOATS, [arg.type for arg in args])
        function = ir.Function(builder.module, signature, name)
    return builder.call(function, args)


def _avx512(builder: Any, name: str, *args: Any) -> Any:
    """Call one unmasked AVX-512 instruction, in the current rounding mode."""
    mask, rounding = ir.Constant(ir.IntType(16), -1), ir.Constant(ir.IntType(32), 4)
    return _call(builder, f"llvm.x86.avx512.mask.{name}.ps.512", (*args, args[0], mask, rounding))


@intrinsic
def _avx512_fraction(typingctx, x):
    """X minus the integer nearest to it; 0 where x is infinite."""

    def codegen(context, builder, signature, args):
        return _avx512(builder, "reduce", args[0], ir.Constant(ir.IntType(32), 8))

    return float32x16(float32x16), codegen


@intrinsic
def _avx512_scale(typingctx, x, exponent):
    """X * 2^exponent, for whole numbers."""

    def codegen(context, builder, signature, args):
        return _avx512(builder, "scalef", *args)

    return float32x16(float32x16, float32x16), codegen


@intrinsic
def _avx512_reciprocal(typingctx, x):
    """1 / x to 2^-14."""

    def codegen(context, builder, signature, args):
        name = "llvm.x86.avx512.rcp14.ps.512"
        arguments = (args[0], args[0], ir.Constant(ir.IntType(16), -1))
        return _call(builder, name, arguments)

    return float32x16(float32x16), codegen


@intrinsic
def _scale_by_power_of_two(typingctx, x, rounded):
    """X * 2^n, where n stands in the lowest bits of `rounded`: an addition to the exponent's bits."""

    def codegen(context, builder, signature, args):
        exponent = builder.shl(builder.bitcast(args[1], _INTS), ir.Constant(_INTS, [23] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(args[0], _INTS), exponent), _FLOATS)

    return float32x16(float32x16, float32x16), codegen


@intrinsic
def _clamp_exponent(typingctx, x):
    """Keep 2^x between the smallest normal number and inf; NaN stays NaN."""

    def codegen(context, builder, signature, args):
        x = args[0]
        for comparison, bound in (("<", -125.0), (">", 128.0)):
            x = builder.select(builder.fcmp_ordered(comparison, x, constant(bound)), constant(bound), x)
        return x

    return float32x16(float32x16), codegen


@intrinsic
def _minus_absolute(typingctx, x):
    def codegen(context, builder, signature, args):
        sign = builder.or_(builder.bitcast(args[0], _INTS), ir.Constant(_INTS, [-(2**31)] * LANES))
        return builder.bitcast(sign, _FLOATS)

    return float32x16(float32x16), codegen


@intrinsic
def _if_negative(typingctx, x, then, otherwise):
    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", args[0], constant(0.0)), *args[1:])

    return float32x16(float32x16, float32x16, float32x16), codegen


@inline
def _power_of_fraction(f):
    """2^f to 2e-7 for f from -1/2 to 1/2, exactly 1 for 0: a minimax polynomial."""
    p = f * _F(1.534581182189188e-4) + _F(1.3399931217660706e-3)
    p = p * f + _F(9.618488957786107e-3)
    p = p * f + _F(5.550328776969926e-2)
    p = p * f + _F(2.402264689062784e-1)
    p = p * f + _F(6.931472057372654e-1)
    return p * f + _F(1.0)


if _has_avx512():

    @inline
    def _exp2(x):
        f = _avx512_fraction(x)
        return _avx512_scale(_power_of_fraction(f), x - f)

    @inline
    def _reciprocal(x):
        guess = _avx512_reciprocal(x)
        return guess + guess * (_F(1.0) - x * guess)
else:

    @inline
    def _exp2(x):
        x = _clamp_exponent(x)
        rounded = x + _F(_ROUND)
        return _scale_by_power_of_two(_power_of_fraction(x - (rounded - _F(_ROUND))), rounded)

    @inline
    def _reciprocal(x):
        return _F(1.0) / x


@intrinsic
def _split(typingctx, x):
    """The 4 narrow vectors of a wide one, as a tuple."""

    def codegen(context, builder, signature, args):
        return context.make_tuple(builder, signature.return_type, split(builder, args[0]))

    return types.UniTuple(float32x16, 4)(float32x64), codegen


@intrinsic
def _join(typingctx, a, b, c, d):
    def codegen(context, builder, signature, args):
        return join(builder, list(args))

    return float32x64(float32x16, float32x16, float32x16, float32x16), codegen


@inline
def exp2(x):
    """2^x to 2e-7 for 16 lanes: 0 below -126, inf from 128 on, exactly 1 for 0 (without AVX-512 at least 2^-125)."""
    return _exp2(x)


@inline
def exp2_states(x):
    """`exp2` for 4 states of 16 channels."""
    a, b, c, d = _split(x)
    return _join(_exp2(a), _exp2(b), _exp2(c), _exp2(d))


@inline
def sigmoid(x):
    """1 / (1 + e^-x), accurate in both tails."""
    e = exp2(_minus_absolute(x) * _F(LOG2_E))
    return _if_negative(x, e, splat(_F(1.0))) * _reciprocal(e + _F(1.0))


@inline
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log1p(e), with log1p(e) = 2 artanh(e / (2 + e)) by its odd power series."""
    e = exp2(_minus_absolute(x) * _F(LOG2_E))
    w = e * _reciprocal(e + _F(2.0))
    w2 = w * w
    p = w2 * _F(1 / 15) + _F(1 / 13)
    p = p * w2 + _F(1 / 11)
    p = p * w2 + _F(1 / 9)
    p = p * w2 + _F(1 / 7)
    p = p * w2 + _F(1 / 5)
    p = p * w2 + _F(1 / 3)
    p = p * w2 + _F(1.0)
    return _if_negative(x, splat(_F(0.0)), x) + p * w * _F(2.0)
