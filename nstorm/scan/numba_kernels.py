"""The selective scan's CPU kernels, compiled by numba at first use.

Layout. Vectors run over channels. Arguments named `*_rows` are the caller's own memory, (address, stride of n, stride
of t) with contiguous channels or states, so that slices of a larger tensor are read and written where they lie; an
address of 0 says that there is none. The other memory is the kernels' own: contiguous, with channels innermost and
padded to whole vectors. All of it is float32 (`flags`: bytes) and comes as addresses, because numba would count
references to arrays at every token. A is already multiplied by log2(e), and its states padded to whole groups.

Work. One unit is (sequences) x (a slab of channels) x (tokens), each from a first to before a last. Units write to
places of their own and partial sums are added in a fixed order afterwards, so results do not depend on how threads are
scheduled or how many there are. A unit that does not begin with a sequence's first token begins with a reset.

Order. Tokens go in runs of at most `CHUNK` that end where a chunk ends or the state is reset. For a run and a vector
of channels, what concerns one token alone comes first; then the recurrence, group of states by group of states, with
the states in registers and everything else in the cache; meanwhile the memory of the next vector is asked for. Skipped
tokens have a step, an input and matrices of 0, which leaves the state exactly as it is.

Memory. Forward keeps the state before every chunk; backward recomputes the states of one run from there.
"""

import numpy as np
from numba.extending import register_jitable

from nstorm.scan.elementary import LOG2_E, exp2_states, sigmoid, softplus
from nstorm.scan.runs import CHUNK, RESET, SKIP, has, kernel, run_end, run_start, whole
from nstorm.scan.simd import (
    GROUP,
    LANES,
    add_products,
    finish_sums,
    inline,
    load,
    load_part,
    load_scalars,
    load_states,
    multiply_add,
    partial_sums,
    prefetch_read,
    prefetch_write,
    splat,
    spread,
    store,
    store_part,
    store_states,
)

# Numba keys its disk cache by the contents of this file alone, though `SOURCES` are compiled into the kernels too:
# machine code of an older one would be loaded. Naming their contents here renews the cache whenever they change.
SOURCES = ("simd.py", "elementary.py", "runs.py")
SOURCES_SHA256 = "611efb3840bc453f"

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_LN_2 = np.float32(1 / LOG2_E)


@register_jitable
def scratch_size(num_states: int, padded: int) -> int:
    """Float32 of scratch that one call of `backward` needs; `forward` needs less."""
    states, row = whole(num_states, GROUP), whole(num_states, LANES)
    per_token = (2 + 2 * GROUP) * row + (10 + 2 * GROUP) * LANES
    return (CHUNK * per_token + (GROUP + states) * LANES + 2 * states * padded + LANES) // LANES * LANES


@kernel
def _read_matrix(rows, n, start, size, num_states, flags, at, matrix):
    """Copy one run of B or C, a row of whole vectors for each token, zeros for skipped tokens."""
    row = whole(num_states, LANES)
    for k in range(size):
        for s in range(0, num_states, LANES):
            x = splat(_ZERO)
            if not has(flags, at + start + k, SKIP):
                x = load_part(rows[0], n * rows[1] + (start + k) * rows[2] + s, min(LANES, num_states - s))
            store(matrix, k * row + s, x)


@kernel
def _copy_states(source, source_stride, target, target_stride, num_states, num_rows):
    """Copy states of one vector of channels, and fill up to `num_rows` with zeros; all zeros for an address of 0."""
    for s in range(num_rows):
        x = splat(_ZERO)
        if source and s < num_states:
            x = load(source, s * source_stride)
        store(target, s * target_stride, x)


@inline
def _next(start, d, first_channel, last_channel, stride):
    """Where the vectors of tokens and channels that come next begin: those whose memory to ask for now."""
    if d + LANES < last_channel:
        return start, d + LANES
    return start + stride, first_channel


@kernel
def forward(
    piece, first_unit, last_unit, units, scratch, sizes,
    u_rows, delta_rows, z_rows, B_rows, C_rows, A2, D, bias, use_softplus, flags,
    first_state, y_rows, states, last_state,
):  # fmt: skip
    """Run the units from `first_unit` to before `last_unit`.

    Fills y (n, l, d), states (n, chunk, s, d) and last_state (n, s, d).
    """
    length, num_channels, num_states, padded = sizes
    num_chunks = (length + CHUNK - 1) // CHUNK
    num_rows, row = whole(num_states, GROUP), whole(num_states, LANES)
    Bs = scratch + 4 * piece * scratch_size(num_states, padded)
    Cs = Bs + 4 * CHUNK * row
    steps = Cs + 4 * CHUNK * row
    drives = steps + 4 * CHUNK * LANES
    outs = drives + 4 * CHUNK * LANES
    state = outs + 4 * CHUNK * LANES
    for unit in range(first_unit, last_unit):
        first_channel, last_channel = units[unit, 2], units[unit, 3]
        first_token, last_token = units[unit, 4], units[unit, 5]
        for n in range(units[unit, 0], units[unit, 1]):
            at = n * length
            for d in range(first_channel, last_channel, LANES):
                source = first_state + 4 * (n * num_states * padded + d) if first_state and first_token == 0 else 0
                _copy_states(source, padded, state + 4 * num_rows * d, LANES, num_states, num_rows)
            start = first_token
            while start < last_token:
                end = run_end(flags, at, start, last_token)
                size = end - start
                anew = has(flags, at + start, RESET)
                _read_matrix(B_rows, n, start, size, num_states, flags, at, Bs)
                _read_matrix(C_rows, n, start, size, num_states, flags, at, Cs)
                for d in range(first_channel, last_channel, LANES):
                    width = min(LANES, num_channels - d)
                    own = state + 4 * num_rows * d
                    if anew:
                        _copy_states(0, 0, own, LANES, num_states, num_rows)
                    if start % CHUNK == 0:
                        kept = states + 4 * ((n * num_chunks + start // CHUNK) * num_states * padded + d)
                        _copy_states(own, LANES, kept, padded, num_states, num_states)
                    skip_weight, offset = load(D, d), load(bias, d)
                    next_token, next_channel = _next(start, d, first_channel, last_channel, CHUNK)
                    for k in range(size):
                        t = start + k
                        for rows in (u_rows, delta_rows, z_rows):
                            prefetch_read(rows[0], n * rows[1] + (next_token + k) * rows[2] + next_channel)
                        prefetch_write(y_rows[0], n * y_rows[1] + t * y_rows[2] + d)
                        if has(flags, at + t, SKIP):
                            x, step = splat(_ZERO), splat(_ZERO)
                        else:
                            x = load_part(u_rows[0], n * u_rows[1] + t * u_rows[2] + d, width)
                            step = load_part(delta_rows[0], n * delta_rows[1] + t * delta_rows[2] + d, width) + offset
                            if use_softplus:
                                step = softplus(step)
                        store(steps, k * LANES, step)
                        store(drives, k * LANES, step * x)
                        store(outs, k * LANES, skip_weight * x)
                    for s in range(0, num_states, GROUP):
                        a = load_states(A2, s * padded + d, padded)
                        h = load_states(own, s * LANES, LANES)
                        for k in range(size):
                            decay = exp2_states(spread(load(steps, k * LANES)) * a)
                            drive = spread(load(drives, k * LANES)) * load_scalars(Bs, k * row + s)
                            h = multiply_add(decay, h, drive)
                            out = add_products(load(outs, k * LANES), h, load_scalars(Cs, k * row + s))
                            store(outs, k * LANES, out)
                        store_states(own, s * LANES, LANES, h)
                    for k in range(size):
                        t = start + k
                        out = load(outs, k * LANES)
                        if has(flags, at + t, SKIP):
                            out = splat(_ZERO)
                        elif z_rows[0]:
                            gate = load_part(z_rows[0], n * z_rows[1] + t * z_rows[2] + d, width)
                            out = out * gate * sigmoid(gate)
                        store_part(y_rows[0], n * y_rows[1] + t * y_rows[2] + d, width, out)
                start = end
            if last_token == length:
                for d in range(first_channel, last_channel, LANES):
                    target = last_state + 4 * (n * num_states * padded + d)
                    _copy_states(state + 4 * num_rows * d, LANES, target, padded, num_states, num_states)


@kernel
def _prepare(
    n, d, width, first_channel, last_channel, start, size, at,
    steps, drives, inputs, grads, outs, slopes, openings, grad_drives, grad_exponents,
    dy_rows, u_rows, delta_rows, z_rows, D, bias, use_softplus, flags, du_rows, ddelta_rows, dz_rows,
):  # fmt: skip
    """What concerns one token alone: its step and that one's slope, its input, the gradient of y before the gate."""
    skip_weight, offset = load(D, d), load(bias, d)
    next_token, next_channel = _next(start, d, first_channel, last_channel, -CHUNK)
    for k in range(size):
        t = start + k
        for rows in (dy_rows, u_rows, delta_rows, z_rows):
            prefetch_read(rows[0], n * rows[1] + (next_token + k) * rows[2] + next_channel)
        for rows in (du_rows, ddelta_rows, dz_rows):
            prefetch_write(rows[0], n * rows[1] + t * rows[2] + d)
        x = step = slope = grad = splat(_ZERO)
        if not has(flags, at + t, SKIP):
            x = load_part(u_rows[0], n * u_rows[1] + t * u_rows[2] + d, width)
            step = load_part(delta_rows[0], n * delta_rows[1] + t * delta_rows[2] + d, width) + offset
            slope = splat(_ONE)
            if use_softplus:
                slope = sigmoid(step)
                step = softplus(step)
            grad = load_part(dy_rows[0], n * dy_rows[1] + t * dy_rows[2] + d, width)
            if z_rows[0]:
                gate = load_part(z_rows[0], n * z_rows[1] + t * z_rows[2] + d, width)
                opening = sigmoid(gate)
                grad = grad * gate * opening
                store(openings, k * LANES, opening)
        store(inputs, k * LANES, x)
        store(steps, k * LANES, step)
        store(drives, k * LANES, step * x)
        store(slopes, k * LANES, slope)
        store(grads, k * LANES, grad)
        store(outs, k * LANES, skip_weight * x)
        store(grad_drives, k * LANES, splat(_ZERO))
        store(grad_exponents, k * LANES, splat(_ZERO))


@kernel
def _recur(
    d, s, size, padded, row, steps, drives, grads, outs, grad_drives, grad_exponents,
    Bs, Cs, sum_B, sum_C, decays, history, before, grad_state, A2, dA,
):  # fmt: skip
    """Run one group of states through a run and back."""
    a = load_states(A2, s * padded + d, padded)
    h = load_states(before, s * LANES, LANES)
    store_states(history, 0, LANES, h)
    for k in range(size):
        decay = exp2_states(spread(load(steps, k * LANES)) * a)
        drive = spread(load(drives, k * LANES)) * load_scalars(Bs, k * row + s)
        h = multiply_add(decay, h, drive)
        store_states(decays, k * GROUP * LANES, LANES, decay)
        store_states(history, (k + 1) * GROUP * LANES, LANES, h)
        store(outs, k * LANES, add_products(load(outs, k * LANES), h, load_scalars(Cs, k * row + s)))
    carried = load_states(grad_state, s * LANES, LANES)
    grad_a = load_states(dA, s * padded + d, padded)
    for k in range(size - 1, -1, -1):
        step, drive, grad_y = load(steps, k * LANES), load(drives, k * LANES), spread(load(grads, k * LANES))
        grad_h = multiply_add(grad_y, load_scalars(Cs, k * row + s), carried)
        at = (k * row + s) * GROUP
        store(sum_C, at, load(sum_C, at) + partial_sums(h * grad_y))
        store(sum_B, at, load(sum_B, at) + partial_sums(grad_h * spread(drive)))
        grad_drive = add_products(load(grad_drives, k * LANES), grad_h, load_scalars(Bs, k * row + s))
        store(grad_drives, k * LANES, grad_drive)
        carried = grad_h * load_states(decays, k * GROUP * LANES, LANES)
        h = load_states(history, k * GROUP * LANES, LANES)
        exponent = carried * h
        grad_a = multiply_add(exponent, spread(step), grad_a)
        store(grad_exponents, k * LANES, add_products(load(grad_exponents, k * LANES), exponent, a))
    store_states(dA, s * padded + d, padded, grad_a)
    store_states(grad_state, s * LANES, LANES, carried)


@kernel
def _finish(
    n, d, width, start, size, at, steps, inputs, grads, outs, slopes, openings, grad_drives, grad_exponents,
    dy_rows, z_rows, D, flags, du_rows, ddelta_rows, dz_rows, dD, dbias,
):  # fmt: skip
    """The gradients of what concerns one token alone."""
    skip_weight, grad_weight, grad_bias = load(D, d), load(dD, d), load(dbias, d)
    for k in range(size):
        t = start + k
        grad_x = grad_step = grad_gate = splat(_ZERO)
        if not has(flags, at + t, SKIP):
            x, grad_y, grad_drive = load(inputs, k * LANES), load(grads, k * LANES), load(grad_drives, k * LANES)
            grad_x = grad_drive * load(steps, k * LANES) + grad_y * skip_weight
            # A2 carries log2(e), which the derivative of the exponential does not
            grad_step = (load(grad_exponents, k * LANES) * _LN_2 + grad_drive * x) * load(slopes, k * LANES)
            grad_weight = grad_weight + grad_y * x
            grad_bias = grad_bias + grad_step
            if z_rows[0]:
                grad = load_part(dy_rows[0], n * dy_rows[1] + t * dy_rows[2] + d, width)
                gate = load_part(z_rows[0], n * z_rows[1] + t * z_rows[2] + d, width)
                opening = load(openings, k * LANES)
                grad_gate = grad * load(outs, k * LANES) * opening * (gate * (_ONE - opening) + _ONE)
        store_part(du_rows[0], n * du_rows[1] + t * du_rows[2] + d, width, grad_x)
        store_part(ddelta_rows[0], n * ddelta_rows[1] + t * ddelta_rows[2] + d, width, grad_step)
        if z_rows[0]:
            store_part(dz_rows[0], n * dz_rows[1] + t * dz_rows[2] + d, width, grad_gate)
    store(dD, d, grad_weight)
    store(dbias, d, grad_bias)


@inline
def _write_sums(sums, at, target, to, width):
    groups = load(sums, at), load(sums, at + LANES), load(sums, at + 2 * LANES), load(sums, at + 3 * LANES)
    store_part(target, to, width, finish_sums(*groups))


@kernel
def backward(
    piece, first_unit, last_unit, units, scratch, sizes,
    u_rows, delta_rows, z_rows, B_rows, C_rows, A2, D, bias, use_softplus, flags,
    dy_rows, states, dlast_state, du_rows, ddelta_rows, dz_rows, dA, dB_rows, dC_rows, dD, dbias, dfirst_state,
):  # fmt: skip
    """Run the units from `first_unit` to before `last_unit` backwards.

    Fills du, ddelta, dz (n, l, d), dB and dC (slab, n, l, s; their rows end with the stride of slab) and dfirst_state
    (n, s, d); adds to dA (part, s, d) and dD, dbias (part, d), of which every unit names its own part in `units`.
    """
    length, num_channels, num_states, padded = sizes
    num_chunks = (length + CHUNK - 1) // CHUNK
    num_rows, row = whole(num_states, GROUP), whole(num_states, LANES)
    Bs = scratch + 4 * piece * scratch_size(num_states, padded)
    Cs = Bs + 4 * CHUNK * row
    steps = Cs + 4 * CHUNK * row
    drives = steps + 4 * CHUNK * LANES
    inputs = drives + 4 * CHUNK * LANES
    grads = inputs + 4 * CHUNK * LANES
    outs = grads + 4 * CHUNK * LANES
    slopes = outs + 4 * CHUNK * LANES
    openings = slopes + 4 * CHUNK * LANES
    grad_drives = openings + 4 * CHUNK * LANES
    grad_exponents = grad_drives + 4 * CHUNK * LANES
    decays = grad_exponents + 4 * CHUNK * LANES
    history = decays + 4 * CHUNK * GROUP * LANES
    sum_B = history + 4 * (CHUNK + 1) * GROUP * LANES
    sum_C = sum_B + 4 * CHUNK * row * GROUP
    before = sum_C + 4 * CHUNK * row * GROUP
    grad_state = before + 4 * num_rows * LANES
    for unit in range(first_unit, last_unit):
        first_channel, last_channel = units[unit, 2], units[unit, 3]
        first_token, last_token = units[unit, 4], units[unit, 5]
        slab, part = units[unit, 6], units[unit, 7]
        own_dA = dA + 4 * part * num_rows * padded
        own_dD, own_dbias = dD + 4 * part * padded, dbias + 4 * part * padded
        for n in range(units[unit, 0], units[unit, 1]):
            at = n * length
            for d in range(first_channel, last_channel, LANES):
                source = dlast_state + 4 * (n * num_states * padded + d) if last_token == length else 0
                _copy_states(source, padded, grad_state + 4 * num_rows * d, LANES, num_states, num_rows)
            end = last_token
            while end > first_token:
                start = run_start(flags, at, first_token, end)
                size = end - start
                anew = has(flags, at + start, RESET)
                _read_matrix(B_rows, n, start, size, num_states, flags, at, Bs)
                _read_matrix(C_rows, n, start, size, num_states, flags, at, Cs)
                for i in range(size * row * GROUP // LANES):
                    store(sum_B, i * LANES, splat(_ZERO))
                    store(sum_C, i * LANES, splat(_ZERO))
                for d in range(first_channel, last_channel, LANES):
                    width = min(LANES, num_channels - d)
                    kept = 0 if anew else states + 4 * ((n * num_chunks + start // CHUNK) * num_states * padded + d)
                    _copy_states(kept, padded, before, LANES, num_states, num_rows)
                    _prepare(
                        n, d, width, first_channel, last_channel, start, size, at,
                        steps, drives, inputs, grads, outs, slopes, openings, grad_drives, grad_exponents,
                        dy_rows, u_rows, delta_rows, z_rows, D, bias, use_softplus, flags,
                        du_rows, ddelta_rows, dz_rows,
                    )  # fmt: skip
                    for s in range(0, num_states, GROUP):
                        _recur(
                            d, s, size, padded, row, steps, drives, grads, outs, grad_drives, grad_exponents,
                            Bs, Cs, sum_B, sum_C, decays, history, before, grad_state + 4 * num_rows * d, A2, own_dA,
                        )  # fmt: skip
                    _finish(
                        n, d, width, start, size, at,
                        steps, inputs, grads, outs, slopes, openings, grad_drives, grad_exponents,
                        dy_rows, z_rows, D, flags, du_rows, ddelta_rows, dz_rows, own_dD, own_dbias,
                    )  # fmt: skip
                    if anew:
                        _copy_states(0, 0, grad_state + 4 * num_rows * d, LANES, num_states, num_rows)
                for k in range(size):
                    for s in range(0, num_states, LANES):
                        sums, width = (k * row + s) * GROUP, min(LANES, num_states - s)
                        to = slab * dB_rows[3] + n * dB_rows[1] + (start + k) * dB_rows[2] + s
                        _write_sums(sum_B, sums, dB_rows[0], to, width)
                        to = slab * dC_rows[3] + n * dC_rows[1] + (start + k) * dC_rows[2] + s
                        _write_sums(sum_C, sums, dC_rows[0], to, width)
                end = start
            if first_token == 0:
                for d in range(first_channel, last_channel, LANES):
                    target = dfirst_state + 4 * (n * num_states * padded + d)
                    _copy_states(grad_state + 4 * num_rows * d, LANES, target, padded, num_states, num_states)
