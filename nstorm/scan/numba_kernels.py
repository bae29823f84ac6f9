"""The selective scan's CPU kernels, compiled by numba at first use.

Layout. Vectors run over channels. Arguments named `*_rows` are the caller's own memory, (address, stride of n, stride
of t) with contiguous channels or states, so that slices of a larger tensor are read where they lie; an address of 0
says that there is none. The other memory is the kernels' own: contiguous, with channels innermost and padded to whole
vectors. All of it is float32 (`flags`: bytes) and comes as addresses, because numba would count references to arrays
at every token. A is already multiplied by log2(e).

Work. One unit is (a run of sequences) x (a slab of channels), slabs counted fastest. Units write to places of their
own and partial sums are added in a fixed order afterwards, so results do not depend on how threads are scheduled or
how many there are.

Memory. Forward keeps the state before every `CHUNK` tokens; backward recomputes the states of one chunk and one
vector of channels at a time from there, into scratch that stays in the cache.
"""

import numpy as np
from numba import njit
from numba.extending import register_jitable

from nstorm.scan.simd import (
    LANES,
    LOG2_E,
    byte,
    exp2,
    inline,
    load,
    load_part,
    sigmoid,
    softplus,
    splat,
    store,
    store_part,
    total,
    value,
)

CHUNK = 32

# Numba keys its disk cache by the contents of this file alone, though simd.py is compiled into the kernels: machine
# code of an older simd.py would be loaded. Naming its contents here renews the cache whenever they change.
SIMD_SHA256 = "fe2e5ebdcddb4c40"

SKIP = 1
RESET = 2

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_LN_2 = np.float32(1 / LOG2_E)

_kernel = njit(nogil=True, cache=True, error_model="numpy")


@register_jitable
def scratch_size(num_states: int) -> int:
    """Float32 of scratch that one call of `backward` needs; `forward` needs less."""
    return ((4 * CHUNK + 1) * num_states + 3 * CHUNK) * LANES


@inline
def _copy_states(source, source_at, source_stride, target, target_at, target_stride, num_states):
    for s in range(num_states):
        store(target, target_at + s * target_stride, load(source, source_at + s * source_stride))


@inline
def _step(delta_rows, at, width, bias, d, use_softplus):
    step = load_part(delta_rows[0], at, width) + load(bias, d)
    if use_softplus:
        step = softplus(step)
    return step


@_kernel
def forward(
    piece, first_unit, last_unit, unit_sequences, unit_channels, scratch, sizes,
    u_rows, delta_rows, z_rows, B_rows, C_rows, A2, D, bias, use_softplus, flags,
    y, states, last_state,
):  # fmt: skip
    """Run the units from `first_unit` to before `last_unit`.

    Fills y (n, l, d) and states (n, chunk, s, d), and turns last_state (n, s, d) from the first state into the last.
    """
    length, num_channels, num_states, padded = sizes
    num_chunks = (length + CHUNK - 1) // CHUNK
    state = scratch + 4 * piece * scratch_size(num_states)
    for unit in range(first_unit, last_unit):
        for n in range(unit_sequences[unit, 0], unit_sequences[unit, 1]):
            for d in range(unit_channels[unit, 0], unit_channels[unit, 1], LANES):
                width = min(LANES, num_channels - d)
                skip_weight = load(D, d)
                state_at = n * num_states * padded + d
                _copy_states(last_state, state_at, padded, state, 0, LANES, num_states)
                for t in range(length):
                    if t % CHUNK == 0:
                        at = (n * num_chunks + t // CHUNK) * num_states * padded + d
                        _copy_states(state, 0, LANES, states, at, padded, num_states)
                    flag = byte(flags, n * length + t) if flags else 0
                    if flag & RESET:
                        for s in range(num_states):
                            store(state, s * LANES, splat(_ZERO))
                    y_at = (n * length + t) * num_channels + d
                    if flag & SKIP:
                        store_part(y, y_at, width, splat(_ZERO))
                        continue
                    x = load_part(u_rows[0], n * u_rows[1] + t * u_rows[2] + d, width)
                    step = _step(delta_rows, n * delta_rows[1] + t * delta_rows[2] + d, width, bias, d, use_softplus)
                    drive = step * x
                    out = skip_weight * x
                    B_at, C_at = n * B_rows[1] + t * B_rows[2], n * C_rows[1] + t * C_rows[2]
                    for s in range(num_states):
                        decay = exp2(step * load(A2, s * padded + d))
                        h = decay * load(state, s * LANES) + drive * value(B_rows[0], B_at + s)
                        store(state, s * LANES, h)
                        out = out + h * value(C_rows[0], C_at + s)
                    if z_rows[0]:
                        gate = load_part(z_rows[0], n * z_rows[1] + t * z_rows[2] + d, width)
                        out = out * gate * sigmoid(gate)
                    store_part(y, y_at, width, out)
                _copy_states(state, 0, LANES, last_state, state_at, padded, num_states)


@_kernel
def _recompute(
    n, d, width, start, size, sizes, history, decays, steps, inputs, grads,
    dy_rows, u_rows, delta_rows, z_rows, B_rows, C_rows, A2, D, bias, use_softplus, flags, dz,
):  # fmt: skip
    """Run one chunk forward again from history[0].

    Keeps for every token k the decays and the state after it (history[k + 1]), the step, the input, and the gradient
    of its output before the gate; fills dz.
    """
    length, num_channels, num_states, padded = sizes
    next_state = num_states * LANES
    for k in range(size):
        t = start + k
        flag = byte(flags, n * length + t) if flags else 0
        keep = _ZERO if flag & RESET else _ONE
        row = k * next_state
        if flag & SKIP:
            for s in range(num_states):
                at = row + s * LANES
                store(history, at + next_state, load(history, at) * keep)
            continue
        x = load_part(u_rows[0], n * u_rows[1] + t * u_rows[2] + d, width)
        step = _step(delta_rows, n * delta_rows[1] + t * delta_rows[2] + d, width, bias, d, use_softplus)
        drive = step * x
        out = load(D, d) * x
        B_at, C_at = n * B_rows[1] + t * B_rows[2], n * C_rows[1] + t * C_rows[2]
        for s in range(num_states):
            at = row + s * LANES
            decay = exp2(step * load(A2, s * padded + d)) * keep
            h = decay * load(history, at) + drive * value(B_rows[0], B_at + s)
            store(decays, at, decay)
            store(history, at + next_state, h)
            out = out + h * value(C_rows[0], C_at + s)
        grad = load_part(dy_rows[0], n * dy_rows[1] + t * dy_rows[2] + d, width)
        if z_rows[0]:
            gate = load_part(z_rows[0], n * z_rows[1] + t * z_rows[2] + d, width)
            opening = sigmoid(gate)
            slope = opening * (gate * (_ONE - opening) + _ONE)
            store_part(dz, (n * length + t) * num_channels + d, width, grad * out * slope)
            grad = grad * gate * opening
        store(steps, k * LANES, step)
        store(inputs, k * LANES, x)
        store(grads, k * LANES, grad)


@_kernel
def _reverse(
    n, d, width, start, size, sizes, history, decays, steps, inputs, grads,
    delta_rows, B_rows, C_rows, A2, D, bias, use_softplus, flags,
    du, ddelta, sum_B, sum_C, dA, dD, dbias, dstate,
):  # fmt: skip
    """Run one chunk backwards over what `_recompute` kept; dA, dD, dbias and dstate are at this unit's channels."""
    length, num_channels, num_states, padded = sizes
    next_state = num_states * LANES
    for k in range(size - 1, -1, -1):
        t = start + k
        out_at = (n * length + t) * num_channels + d
        flag = byte(flags, n * length + t) if flags else 0
        if flag & SKIP:
            store_part(du, out_at, width, splat(_ZERO))
            store_part(ddelta, out_at, width, splat(_ZERO))
            if flag & RESET:
                for s in range(num_states):
                    store(dstate, s * padded, splat(_ZERO))
            continue
        step, x, grad_y = load(steps, k * LANES), load(inputs, k * LANES), load(grads, k * LANES)
        drive = step * x
        grad_drive = splat(_ZERO)
        grad_exponent = splat(_ZERO)
        B_at, C_at = n * B_rows[1] + t * B_rows[2], n * C_rows[1] + t * C_rows[2]
        for s in range(num_states):
            at = k * next_state + s * LANES
            grad_h = load(dstate, s * padded) + grad_y * value(C_rows[0], C_at + s)
            store(sum_C, at, load(sum_C, at) + load(history, at + next_state) * grad_y)
            store(sum_B, at, load(sum_B, at) + grad_h * drive)
            grad_drive = grad_drive + grad_h * value(B_rows[0], B_at + s)
            carried = grad_h * load(decays, at)
            store(dstate, s * padded, carried)
            exponent = carried * load(history, at)
            store(dA, s * padded, load(dA, s * padded) + exponent * step)
            grad_exponent = grad_exponent + exponent * load(A2, s * padded + d)
        store_part(du, out_at, width, grad_drive * step + grad_y * load(D, d))
        # A2 carries log2(e), which the derivative of the exponential does not
        grad_step = grad_exponent * _LN_2 + grad_drive * x
        if use_softplus:
            raw = load_part(delta_rows[0], n * delta_rows[1] + t * delta_rows[2] + d, width)
            grad_step = grad_step * sigmoid(raw + load(bias, d))
        store_part(ddelta, out_at, width, grad_step)
        store(dD, 0, load(dD, 0) + grad_y * x)
        store(dbias, 0, load(dbias, 0) + grad_step)


@_kernel
def backward(
    piece, first_unit, last_unit, unit_sequences, unit_channels, scratch, sizes, num_slabs,
    dy_rows, u_rows, delta_rows, z_rows, B_rows, C_rows, A2, D, bias, use_softplus, flags, states,
    du, ddelta, dz, dA, dB, dC, dD, dbias, dstate,
):  # fmt: skip
    """Run the units from `first_unit` to before `last_unit` backwards.

    Fills du, ddelta, dz (n, l, d; dz but for skipped tokens) and dB, dC (slab, n, l, s, as arrays); adds to
    dA (run, s, d) and dD, dbias (run, d); turns dstate (n, s, d) from the gradient of the last state into that of
    the first.
    """
    length, num_channels, num_states, padded = sizes
    num_chunks = (length + CHUNK - 1) // CHUNK
    history = scratch + 4 * piece * scratch_size(num_states)
    decays = history + 4 * (CHUNK + 1) * num_states * LANES
    sum_B = decays + 4 * CHUNK * num_states * LANES
    sum_C = sum_B + 4 * CHUNK * num_states * LANES
    steps = sum_C + 4 * CHUNK * num_states * LANES
    inputs = steps + 4 * CHUNK * LANES
    grads = inputs + 4 * CHUNK * LANES
    for unit in range(first_unit, last_unit):
        run, slab = unit // num_slabs, unit % num_slabs
        for n in range(unit_sequences[unit, 0], unit_sequences[unit, 1]):
            for chunk in range(num_chunks - 1, -1, -1):
                start = chunk * CHUNK
                size = min(CHUNK, length - start)
                for i in range(size * num_states):
                    store(sum_B, i * LANES, splat(_ZERO))
                    store(sum_C, i * LANES, splat(_ZERO))
                for d in range(unit_channels[unit, 0], unit_channels[unit, 1], LANES):
                    width = min(LANES, num_channels - d)
                    at = (n * num_chunks + chunk) * num_states * padded + d
                    _copy_states(states, at, padded, history, 0, LANES, num_states)
                    _recompute(
                        n, d, width, start, size, sizes, history, decays, steps, inputs, grads,
                        dy_rows, u_rows, delta_rows, z_rows, B_rows, C_rows, A2, D, bias, use_softplus, flags, dz,
                    )  # fmt: skip
                    _reverse(
                        n, d, width, start, size, sizes, history, decays, steps, inputs, grads,
                        delta_rows, B_rows, C_rows, A2, D, bias, use_softplus, flags,
                        du, ddelta, sum_B, sum_C, dA + 4 * (run * num_states * padded + d),
                        dD + 4 * (run * padded + d), dbias + 4 * (run * padded + d),
                        dstate + 4 * (n * num_states * padded + d),
                    )  # fmt: skip
                for k in range(size):
                    for s in range(num_states):
                        at = (k * num_states + s) * LANES
                        dB[slab, n, start + k, s] = total(load(sum_B, at))
                        dC[slab, n, start + k, s] = total(load(sum_C, at))
