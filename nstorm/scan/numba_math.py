"""Elementary functions that LLVM can vectorise, for the numba kernels.

A call into libm stops the vectoriser; these are polynomials and bit operations, accurate to a few float32 ulp.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# NaN must stay NaN, so neither `nnan` nor `ninf`.
FAST = {"contract", "reassoc", "nsz", "arcp"}
inline = njit(inline="always", fastmath=FAST)

LOG2_E = 1.4426950408889634


@intrinsic
def _round_to_nearest(typingctx, x):
    def codegen(context, builder, signature, args):
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [ir.FloatType()]), args)

    return types.float32(types.float32), codegen


@intrinsic
def _power_of_two(typingctx, n):
    """2^n for an integral n in [-127, 128], by writing n into the exponent bits."""

    def codegen(context, builder, signature, args):
        int32 = ir.IntType(32)
        exponent = builder.add(builder.fptosi(args[0], int32), int32(127))
        return builder.bitcast(builder.shl(exponent, int32(23)), ir.FloatType())

    return types.float32(types.float32), codegen


@inline
def exp2(x):
    """2^x: 0 below -127, inf from 128, NaN for NaN; the polynomial is a minimax fit on [-1/2, 1/2]."""
    x = types.float32(-127.0) if x < types.float32(-127.0) else x
    x = types.float32(128.0) if x > types.float32(128.0) else x
    n = _round_to_nearest(x)
    f = x - n
    p = types.float32(1.534581182189188e-4)
    p = p * f + types.float32(1.3399931217660706e-3)
    p = p * f + types.float32(9.618488957786107e-3)
    p = p * f + types.float32(5.550328776969926e-2)
    p = p * f + types.float32(2.402264689062784e-1)
    p = p * f + types.float32(6.931472057372654e-1)
    p = p * f + types.float32(1.0)
    return p * _power_of_two(n)


@inline
def exp(x):
    """e^x with the range of `exp2`."""
    return exp2(x * types.float32(LOG2_E))


@inline
def sigmoid(x):
    """1 / (1 + e^-x), exact in both tails."""
    e = exp(-abs(x))
    return (e if x < types.float32(0.0) else types.float32(1.0)) / (types.float32(1.0) + e)


@inline
def softplus(x):
    """log(1 + e^x) as max(x, 0) + log1p(e), log1p(e) = 2 artanh(e / (2 + e)) by its odd power series."""
    e = exp(-abs(x))
    w = e / (types.float32(2.0) + e)
    w2 = w * w
    p = types.float32(1 / 15)
    p = p * w2 + types.float32(1 / 13)
    p = p * w2 + types.float32(1 / 11)
    p = p * w2 + types.float32(1 / 9)
    p = p * w2 + types.float32(1 / 7)
    p = p * w2 + types.float32(1 / 5)
    p = p * w2 + types.float32(1 / 3)
    p = p * w2 + types.float32(1.0)
    return (types.float32(0.0) if x < types.float32(0.0) else x) + types.float32(2.0) * w * p
