"""Vectors of float32 lanes as numba types.

Numba's automatic vectoriser gives up on loops as long as the scan's, so the kernels say what is a vector, and LLVM
maps it to whatever the CPU has. `float32x16` is 16 channels (one AVX-512 register, two of AVX2, four of NEON);
`float32x64` is 4 states of 16 channels each, state by state: four independent chains hide the latency of arithmetic.
Operators take vectors and scalars. Memory is an address (of float32) and an index.

After a change here, `SOURCES_SHA256` must follow wherever it stands (a test says how), or numba's disk cache stays
stale.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
GROUP = 4

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_NARROW, _WIDE = ir.VectorType(_FLOAT, LANES), ir.VectorType(_FLOAT, GROUP * LANES)
# a * b + c may become one instruction; nothing else may be changed
_FLAGS = ("contract",)

inline = njit(inline="always")


class _Float32x16(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


class _Float32x64(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x64")


float32x16 = _Float32x16()
float32x64 = _Float32x64()


@register_model(_Float32x16)
class _Float32x16Model(models.PrimitiveModel):
    def __init__(self, manager: Any, type_: Any) -> None:
        super().__init__(manager, type_, _NARROW)


@register_model(_Float32x64)
class _Float32x64Model(models.PrimitiveModel):
    def __init__(self, manager: Any, type_: Any) -> None:
        super().__init__(manager, type_, _WIDE)


def constant(value: float) -> ir.Constant:
    """A vector constant for code generation."""
    return ir.Constant(_NARROW, [value] * LANES)


def shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Choose lanes of two vectors during code generation."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(lanes)), lanes))


def split(builder: Any, wide: Any) -> list[Any]:
    """The narrow vectors of a wide one; free, for a wide vector is as many registers."""
    return [shuffle(builder, wide, wide, [*range(i * LANES, (i + 1) * LANES)]) for i in range(GROUP)]


def join(builder: Any, narrow: list[Any]) -> Any:
    """A wide vector of narrow ones."""
    while len(narrow) > 1:
        lanes = [*range(2 * narrow[0].type.count)]
        narrow = [shuffle(builder, a, b, lanes) for a, b in zip(narrow[::2], narrow[1::2], strict=True)]
    return narrow[0]


def _pointer(builder: Any, address: Any, index: Any, pointee: Any) -> Any:
    floats = builder.inttoptr(address, _FLOAT.as_pointer())
    return builder.bitcast(builder.gep(floats, [index]), pointee.as_pointer())


def _load(builder: Any, address: Any, index: Any, pointee: Any = _NARROW) -> Any:
    return builder.load(_pointer(builder, address, index, pointee), align=4)


def _store(builder: Any, address: Any, index: Any, x: Any) -> None:
    builder.store(x, _pointer(builder, address, index, x.type), align=4)


def _splat(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(_NARROW, ir.Undefined)
    one = builder.insert_element(undefined, scalar, _INT(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))


def _places(builder: Any, index: Any, stride: Any) -> list[Any]:
    return [builder.add(index, builder.mul(stride, stride.type(i))) for i in range(GROUP)]


@intrinsic
def splat(typingctx, x):
    """All 16 lanes equal to a scalar."""

    def codegen(context, builder, signature, args):
        return _splat(builder, args[0])

    return float32x16(types.float32), codegen


@intrinsic
def spread(typingctx, x):
    """The same 16 channels for each of 4 states."""

    def codegen(context, builder, signature, args):
        return join(builder, [args[0]] * GROUP)

    return float32x64(float32x16), codegen


@intrinsic
def load(typingctx, address, index):
    """The 16 float32 that begin at an index."""

    def codegen(context, builder, signature, args):
        return _load(builder, *args)

    return float32x16(types.intp, types.intp), codegen


@intrinsic
def store(typingctx, address, index, x):
    """Write 16 float32 at an index."""

    def codegen(context, builder, signature, args):
        _store(builder, *args)

    return types.void(types.intp, types.intp, float32x16), codegen


def _prefetch(to_write: bool) -> Callable[..., Any]:
    @intrinsic
    def prefetch(typingctx, address, index):
        def codegen(context, builder, signature, args):
            name, byte, flag = "llvm.prefetch.p0i8", ir.IntType(8).as_pointer(), ir.IntType(32)
            function = builder.module.globals.get(name)
            if function is None:
                function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [byte, *[flag] * 3]), name)
            pointer = builder.bitcast(_pointer(builder, *args, _FLOAT), byte)
            builder.call(function, [pointer, flag(int(to_write)), flag(3), flag(1)])

        return types.void(types.intp, types.intp), codegen

    return prefetch


# Ask for memory that will be read, or written, some hundred instructions later; any address will do.
prefetch_read, prefetch_write = _prefetch(False), _prefetch(True)


@intrinsic
def load_states(typingctx, address, index, stride):
    """4 states of 16 channels, a stride apart."""

    def codegen(context, builder, signature, args):
        address, index, stride = args
        return join(builder, [_load(builder, address, at) for at in _places(builder, index, stride)])

    return float32x64(types.intp, types.intp, types.intp), codegen


@intrinsic
def store_states(typingctx, address, index, stride, x):
    """Write 4 states of 16 channels, a stride apart."""

    def codegen(context, builder, signature, args):
        address, index, stride, wide = args
        for at, narrow in zip(_places(builder, index, stride), split(builder, wide), strict=True):
            _store(builder, address, at, narrow)

    return types.void(types.intp, types.intp, types.intp, float32x64), codegen


@intrinsic
def load_scalars(typingctx, address, index):
    """4 numbers, one for all 16 channels of each state."""

    def codegen(context, builder, signature, args):
        address, index = args
        places = _places(builder, index, index.type(1))
        return join(builder, [_splat(builder, _load(builder, address, at, _FLOAT)) for at in places])

    return float32x64(types.intp, types.intp), codegen


@intrinsic
def multiply_add(typingctx, a, b, c):
    """A * b + c for 4 states, with b and the result in a chain of one instruction where the CPU has it."""

    def codegen(context, builder, signature, args):
        name = f"llvm.fmuladd.v{GROUP * LANES}f32"
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(_WIDE, [_WIDE] * 3), name)
        return builder.call(function, args)

    return float32x64(float32x64, float32x64, float32x64), codegen


@intrinsic
def add_products(typingctx, x, a, b):
    """X + the sum over 4 states of a * b."""

    def codegen(context, builder, signature, args):
        total = args[0]
        for p, q in zip(split(builder, args[1]), split(builder, args[2]), strict=True):
            total = builder.fadd(total, builder.fmul(p, q, flags=_FLAGS), flags=_FLAGS)
        return total

    return float32x16(float32x16, float32x64, float32x64), codegen


@intrinsic
def byte(typingctx, address, index):
    """The byte at an index of an address of bytes."""

    def codegen(context, builder, signature, args):
        data = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        return builder.load(builder.gep(data, [args[1]]))

    return types.uint8(types.intp, types.intp), codegen


def _masked(builder: Any, operation: str, width: Any, returns: Any, *args: Any) -> Any:
    """Call LLVM's masked load or store for the first `width` lanes."""
    bits = ir.VectorType(ir.IntType(1), LANES)
    lanes = ir.Constant(ir.VectorType(width.type, LANES), [*range(LANES)])
    first = builder.insert_element(ir.Constant(lanes.type, ir.Undefined), width, _INT(0))
    widths = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))
    mask = builder.icmp_signed("<", lanes, widths)
    alignment = _INT(4)
    if operation == "load":
        pointer, passthrough = args
        args = (pointer, alignment, mask, passthrough)
        types_ = [pointer.type, _INT, bits, _NARROW]
    else:
        x, pointer = args
        args = (x, pointer, alignment, mask)
        types_ = [_NARROW, pointer.type, _INT, bits]
    name = f"llvm.masked.{operation}.v{LANES}f32.p0v{LANES}f32"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(returns, types_), name)
    return builder.call(function, args)


@intrinsic
def _load_first(typingctx, address, index, width):
    def codegen(context, builder, signature, args):
        pointer = _pointer(builder, args[0], args[1], _NARROW)
        return _masked(builder, "load", args[2], _NARROW, pointer, constant(0.0))

    return float32x16(types.intp, types.intp, types.intp), codegen


@intrinsic
def _store_first(typingctx, address, index, width, x):
    def codegen(context, builder, signature, args):
        pointer = _pointer(builder, args[0], args[1], _NARROW)
        _masked(builder, "store", args[2], ir.VoidType(), args[3], pointer)

    return types.void(types.intp, types.intp, types.intp, float32x16), codegen


@inline
def load_part(address, index, width):
    """`load` of the first `width` lanes, 1 to 16; the others are 0, and no memory beyond them is read."""
    return load(address, index) if width == LANES else _load_first(address, index, width)


@inline
def store_part(address, index, width, x):
    """`store` of the first `width` lanes, 1 to 16."""
    if width == LANES:
        store(address, index, x)
    else:
        _store_first(address, index, width, x)


def _pairwise(builder: Any, a: Any, b: Any, run: int) -> Any:
    """Add the halves of every block of 2 * run lanes of two vectors; blocks of a then stand before those of b."""
    low = [block + i for block in range(0, 2 * LANES, 2 * run) for i in range(run)]
    high = [lane + run for lane in low]
    return builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, high), flags=_FLAGS)


@intrinsic
def partial_sums(typingctx, x):
    """Sums over 4 lanes each of 4 states of 16 channels: 4 a state, for `finish_sums`."""

    def codegen(context, builder, signature, args):
        a, b, c, d = split(builder, args[0])
        run = LANES // 2
        return _pairwise(builder, _pairwise(builder, a, b, run), _pairwise(builder, c, d, run), run // 2)

    return float32x16(float32x64), codegen


@intrinsic
def finish_sums(typingctx, a, b, c, d):
    """The sums over channels of 16 states from the partial ones of 4 states each, in the states' order."""

    def codegen(context, builder, signature, args):
        a, b, c, d = args
        run = LANES // 8
        return _pairwise(builder, _pairwise(builder, a, b, run), _pairwise(builder, c, d, run), run // 2)

    return float32x16(float32x16, float32x16, float32x16, float32x16), codegen


def _register(vector: Any, operation: Callable[..., Any], instruction: str) -> None:
    @intrinsic
    def vectors(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, instruction)(*args, flags=_FLAGS)

        return vector(vector, vector), codegen

    @intrinsic
    def repeated(typingctx, x):
        def codegen(context, builder, signature, args):
            narrow = _splat(builder, args[0])
            return narrow if vector is float32x16 else join(builder, [narrow] * GROUP)

        return vector(types.float32), codegen

    @overload(operation, inline="always")
    def of_vectors(a, b):
        if a is vector and b is vector:
            return lambda a, b: vectors(a, b)
        if a is vector and isinstance(b, types.Float):
            return lambda a, b: vectors(a, repeated(b))
        if b is vector and isinstance(a, types.Float):
            return lambda a, b: vectors(repeated(a), b)
        return None


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    for _vector in (float32x16, float32x64):
        _register(_vector, _operation, _instruction)
