"""The causal convolution's CPU kernels, compiled by numba at first use.

Layout and units of work are those of `numba_kernels`. Of every run the tokens that are not skipped are copied behind
the last taps - 1 ones before them, so that taps reach over skipped tokens, and not over a reset.
"""

import numpy as np
from numba.extending import register_jitable

from nstorm.scan.elementary import sigmoid
from nstorm.scan.runs import CHUNK, RESET, SKIP, has, kernel, run_end
from nstorm.scan.simd import LANES, inline, load, load_part, splat, store, store_part

# as in numba_kernels
SOURCES = ("simd.py", "elementary.py", "runs.py")
SOURCES_SHA256 = "611efb3840bc453f"

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@register_jitable
def scratch_size(taps: int) -> int:
    """Float32 of scratch that one call of a kernel needs."""
    return 2 * (CHUNK + taps - 1) * LANES


@inline
def _fill(target, count):
    for i in range(count):
        store(target, i * LANES, splat(_ZERO))


@kernel
def _begin(first_inputs, n, d, padded, tokens, taps):
    """The inputs before the first token: those given, or zeros; a unit inside a sequence forgets them by its reset."""
    for j in range(taps - 1):
        x = splat(_ZERO)
        if first_inputs:
            x = load(first_inputs, (n * (taps - 1) + j) * padded + d)
        store(tokens, j * LANES, x)


@kernel
def _gather(x_rows, n, start, size, at, flags, d, width, tokens, taps):
    """Copy the tokens of a run that are not skipped behind those before them; returns how many."""
    kept = taps - 1
    for t in range(start, start + size):
        if not has(flags, at + t, SKIP):
            store(tokens, kept * LANES, load_part(x_rows[0], n * x_rows[1] + t * x_rows[2] + d, width))
            kept += 1
    return kept - (taps - 1)


@inline
def _convolve(tokens, i, weight, offset, d, padded, taps):
    total = offset
    for j in range(taps):
        total = load(tokens, (i + j) * LANES) * load(weight, j * padded + d) + total
    return total


@kernel
def forward(piece, first_unit, last_unit, units, scratch, sizes, x_rows, weight, bias, silu, flags, first_inputs,
            y_rows, last_inputs):  # fmt: skip
    """Run the units from `first_unit` to before `last_unit`: fills y (n, l, d) and last_inputs (n, taps - 1, d)."""
    length, num_channels, taps, padded = sizes
    tokens = scratch + 4 * piece * scratch_size(taps)
    for unit in range(first_unit, last_unit):
        first_token, last_token = units[unit, 4], units[unit, 5]
        for n in range(units[unit, 0], units[unit, 1]):
            at = n * length
            for d in range(units[unit, 2], units[unit, 3], LANES):
                width = min(LANES, num_channels - d)
                offset = load(bias, d)
                _begin(first_inputs, n, d, padded, tokens, taps)
                start = first_token
                while start < last_token:
                    end = run_end(flags, at, start, last_token)
                    if has(flags, at + start, RESET):
                        _fill(tokens, taps - 1)
                    kept = _gather(x_rows, n, start, end - start, at, flags, d, width, tokens, taps)
                    i = 0
                    for t in range(start, end):
                        y = splat(_ZERO)
                        if not has(flags, at + t, SKIP):
                            y = _convolve(tokens, i, weight, offset, d, padded, taps)
                            if silu:
                                y = y * sigmoid(y)
                            i += 1
                        store_part(y_rows[0], n * y_rows[1] + t * y_rows[2] + d, width, y)
                    for j in range(taps - 1):
                        store(tokens, j * LANES, load(tokens, (kept + j) * LANES))
                    start = end
                if last_token == length:
                    for j in range(taps - 1):
                        store(last_inputs, (n * (taps - 1) + j) * padded + d, load(tokens, j * LANES))


@kernel
def _flush(grads, count, places, n, d, width, padded, taps, dx_rows, dfirst_inputs):
    """Write the first gradients to where their tokens came from, which is before the sequence for negative places."""
    for i in range(count):
        place = places[i]
        if place >= 0:
            store_part(dx_rows[0], n * dx_rows[1] + place * dx_rows[2] + d, width, load(grads, i * LANES))
        elif place > -taps:
            store(dfirst_inputs, (n * (taps - 1) + taps - 1 + place) * padded + d, load(grads, i * LANES))


@kernel
def backward(piece, first_unit, last_unit, units, scratch, sizes, x_rows, weight, bias, silu, flags, first_inputs,
             dy_rows, dlast_inputs, dx_rows, dweight, dbias, dfirst_inputs):  # fmt: skip
    """Run the units from `first_unit` to before `last_unit` backwards.

    Fills dx (n, l, d) and, but where it stays as it was because of a reset at the first token, dfirst_inputs
    (n, taps - 1, d); adds to dweight (part, tap, d) and dbias (part, d).
    """
    length, num_channels, taps, padded = sizes
    tokens = scratch + 4 * piece * scratch_size(taps)
    grads = tokens + 4 * (CHUNK + taps - 1) * LANES
    # the token that each gradient belongs to; -1 is the last one before the sequence, -taps is nobody
    places = np.empty(CHUNK + taps - 1, np.int64)
    for unit in range(first_unit, last_unit):
        first_token, last_token, part = units[unit, 4], units[unit, 5], units[unit, 7]
        for n in range(units[unit, 0], units[unit, 1]):
            at = n * length
            for d in range(units[unit, 2], units[unit, 3], LANES):
                width = min(LANES, num_channels - d)
                offset = load(bias, d)
                _begin(first_inputs, n, d, padded, tokens, taps)
                _fill(grads, CHUNK + taps - 1)
                for j in range(taps - 1):
                    places[j] = -taps if first_token else j - (taps - 1)
                start = first_token
                while start < last_token:
                    end = run_end(flags, at, start, last_token)
                    if has(flags, at + start, RESET):
                        _flush(grads, taps - 1, places, n, d, width, padded, taps, dx_rows, dfirst_inputs)
                        _fill(tokens, taps - 1)
                        _fill(grads, taps - 1)
                        places[: taps - 1] = -taps
                    kept = _gather(x_rows, n, start, end - start, at, flags, d, width, tokens, taps)
                    i = 0
                    for t in range(start, end):
                        if has(flags, at + t, SKIP):
                            store_part(dx_rows[0], n * dx_rows[1] + t * dx_rows[2] + d, width, splat(_ZERO))
                            continue
                        grad = load_part(dy_rows[0], n * dy_rows[1] + t * dy_rows[2] + d, width)
                        if silu:
                            y = _convolve(tokens, i, weight, offset, d, padded, taps)
                            opening = sigmoid(y)
                            grad = grad * opening * (y * (_ONE - opening) + _ONE)
                        for j in range(taps):
                            w = j * padded + d
                            at_token = (i + j) * LANES
                            store(grads, at_token, load(weight, w) * grad + load(grads, at_token))
                            at_weight = part * taps * padded + w
                            store(dweight, at_weight, load(tokens, at_token) * grad + load(dweight, at_weight))
                        store(dbias, part * padded + d, load(dbias, part * padded + d) + grad)
                        places[taps - 1 + i] = t
                        i += 1
                    _flush(grads, kept, places, n, d, width, padded, taps, dx_rows, dfirst_inputs)
                    for j in range(taps - 1):
                        store(tokens, j * LANES, load(tokens, (kept + j) * LANES))
                        store(grads, j * LANES, load(grads, (kept + j) * LANES))
                        places[j] = places[kept + j]
                    _fill(grads + 4 * (taps - 1) * LANES, CHUNK)
                    start = end
                if last_token == length:
                    for j in range(taps - 1):
                        last = load(dlast_inputs, (n * (taps - 1) + j) * padded + d)
                        store(grads, j * LANES, load(grads, j * LANES) + last)
                _flush(grads, taps - 1, places, n, d, width, padded, taps, dx_rows, dfirst_inputs)
