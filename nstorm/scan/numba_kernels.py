"""The selective scan's CPU kernels, compiled by numba at first use.

Layout. Channels are innermost, so that every inner loop runs over contiguous channels and vectorises; `u`, `delta`
and `z` are one-dimensional views of the caller's memory, addressed as `n * stride_n + t * stride_t + channel`,
so that slices of a larger tensor are read where they lie. A is `(s, d)`, already multiplied by log2(e).

Work. One unit is (a run of sequences) x (a slab of channels). Units write to places of their own and partial sums are
added in a fixed order afterwards, so results do not depend on how threads are scheduled or how many there are.

Memory. Forward keeps the state before every `CHUNK` tokens; backward recomputes the states of one chunk at a time
from there, into scratch that stays in the cache.
"""

import numpy as np
from numba import njit

from nstorm.scan.numba_math import FAST, LOG2_E, exp2, inline, sigmoid, softplus

CHUNK = 32
BLOCK = 96  # channels handled at a time: the state and one chunk of scratch fit a core's cache

SKIP = 1
RESET = 2

_ONE = np.float32(1.0)
_LOG2_E = np.float32(LOG2_E)
_kernel = njit(nogil=True, fastmath=FAST, cache=True, error_model="numpy")


@inline
def _load_step(delta_row, bias, use_softplus, step_row):
    for d in range(step_row.size):
        x = delta_row[d] + bias[d]
        step_row[d] = softplus(x) if use_softplus else x


@inline
def _advance(state, A2, d0, d1, n, step_row, input_row, B_row, C_row, y_row):
    for s in range(A2.shape[0]):
        b, c = B_row[s], C_row[s]
        h, a = state[n, s, d0:d1], A2[s, d0:d1]
        for d in range(y_row.size):
            updated = exp2(step_row[d] * a[d]) * h[d] + input_row[d] * b
            h[d] = updated
            y_row[d] += updated * c


@_kernel
def forward(
    unit_range, unit_sequences, unit_channels,
    u, u_strides, delta, delta_strides, z, z_strides, has_z,
    A2, B, C, D, bias, use_softplus, flags, has_flags,
    y, states, last_state,
):  # fmt: skip
    """Run the units `unit_range`: fill y (n, l, d), states (n, chunk, s, d) and advance last_state (n, s, d)."""
    num_states = A2.shape[0]
    length = y.shape[1]
    step = np.empty(BLOCK, np.float32)
    drive = np.empty(BLOCK, np.float32)
    for unit in range(unit_range[0], unit_range[1]):
        for n in range(unit_sequences[unit, 0], unit_sequences[unit, 1]):
            for d0 in range(unit_channels[unit, 0], unit_channels[unit, 1], BLOCK):
                d1 = min(d0 + BLOCK, unit_channels[unit, 1])
                width = d1 - d0
                D_block, bias_block = D[d0:d1], bias[d0:d1]
                state = last_state[n, :, d0:d1]
                step_row, drive_row = step[:width], drive[:width]
                for t in range(length):
                    if t % CHUNK == 0:
                        states[n, t // CHUNK, :, d0:d1] = state
                    y_row = y[n, t, d0:d1]
                    flag = flags[n, t] if has_flags else 0
                    if flag & RESET:
                        state[:] = np.float32(0.0)
                    if flag & SKIP:
                        y_row[:] = np.float32(0.0)
                        continue
                    at = n * u_strides[0] + t * u_strides[1] + d0
                    u_row = u[at : at + width]
                    at = n * delta_strides[0] + t * delta_strides[1] + d0
                    _load_step(delta[at : at + width], bias_block, use_softplus, step_row)
                    for d in range(width):
                        drive_row[d] = step_row[d] * u_row[d]
                        y_row[d] = D_block[d] * u_row[d]
                    _advance(last_state, A2, d0, d1, n, step_row, drive_row, B[n, t], C[n, t], y_row)
                    if has_z:
                        at = n * z_strides[0] + t * z_strides[1] + d0
                        z_row = z[at : at + width]
                        for d in range(width):
                            y_row[d] *= z_row[d] * sigmoid(z_row[d])


@_kernel
def backward(
    unit_range, unit_sequences, unit_channels, unit_slab,
    dy, dy_strides, u, u_strides, delta, delta_strides, z, z_strides, has_z,
    A2, B, C, D, bias, use_softplus, flags, has_flags, states,
    du, ddelta, dz, dA, dB, dC, dD, dbias, dstate,
):  # fmt: skip
    """Run the units `unit_range` backwards.

    du, ddelta, dz (n, l, d) are filled; dB, dC (slab, n, l, s), dA (unit, s, d), dD and dbias (unit, d) are added to;
    dstate (n, s, d) enters as the gradient of the last state and leaves as that of the initial one.
    """
    num_states = A2.shape[0]
    length = du.shape[1]
    history = np.empty((CHUNK + 1, num_states, BLOCK), np.float32)
    decays = np.empty((CHUNK, num_states, BLOCK), np.float32)
    steps = np.empty((CHUNK, BLOCK), np.float32)
    gated = np.empty((CHUNK, BLOCK), np.float32)
    drive = np.empty(BLOCK, np.float32)
    ddrive = np.empty(BLOCK, np.float32)
    dstep = np.empty(BLOCK, np.float32)
    ungated = np.empty(BLOCK, np.float32)
    for unit in range(unit_range[0], unit_range[1]):
        slab = unit_slab[unit]
        for n in range(unit_sequences[unit, 0], unit_sequences[unit, 1]):
            for d0 in range(unit_channels[unit, 0], unit_channels[unit, 1], BLOCK):
                d1 = min(d0 + BLOCK, unit_channels[unit, 1])
                width = d1 - d0
                D_block, bias_block = D[d0:d1], bias[d0:d1]
                dh = dstate[n, :, d0:d1]
                dD_block, dbias_block = dD[unit, d0:d1], dbias[unit, d0:d1]
                drive_row, ddrive_row, dstep_row = drive[:width], ddrive[:width], dstep[:width]
                ungated_row = ungated[:width]
                for chunk in range((length - 1) // CHUNK, -1, -1):
                    start = chunk * CHUNK
                    size = min(CHUNK, length - start)

                    history[0, :, :width] = states[n, chunk, :, d0:d1]
                    for k in range(size):
                        t = start + k
                        flag = flags[n, t] if has_flags else 0
                        if flag & SKIP:
                            for s in range(num_states):
                                keep = np.float32(0.0) if flag & RESET else _ONE
                                h0, h1, g = history[k, s, :width], history[k + 1, s, :width], decays[k, s, :width]
                                for d in range(width):
                                    h1[d] = h0[d] * keep
                                    g[d] = keep
                            continue
                        at = n * u_strides[0] + t * u_strides[1] + d0
                        u_row = u[at : at + width]
                        at = n * delta_strides[0] + t * delta_strides[1] + d0
                        step_row = steps[k, :width]
                        _load_step(delta[at : at + width], bias_block, use_softplus, step_row)
                        for d in range(width):
                            drive_row[d] = step_row[d] * u_row[d]
                            ungated_row[d] = D_block[d] * u_row[d]
                        keep = np.float32(0.0) if flag & RESET else _ONE
                        for s in range(num_states):
                            b, c = B[n, t, s], C[n, t, s]
                            a = A2[s, d0:d1]
                            h0, h1, g = history[k, s, :width], history[k + 1, s, :width], decays[k, s, :width]
                            for d in range(width):
                                decay = exp2(step_row[d] * a[d]) * keep
                                updated = decay * h0[d] + drive_row[d] * b
                                g[d] = decay
                                h1[d] = updated
                                ungated_row[d] += updated * c
                        at = n * dy_strides[0] + t * dy_strides[1] + d0
                        dy_row = dy[at : at + width]
                        gated_row = gated[k, :width]
                        if has_z:
                            at = n * z_strides[0] + t * z_strides[1] + d0
                            z_row, dz_row = z[at : at + width], dz[n, t, d0:d1]
                            for d in range(width):
                                gate = sigmoid(z_row[d])
                                gated_row[d] = dy_row[d] * z_row[d] * gate
                                dz_row[d] = dy_row[d] * ungated_row[d] * gate * (_ONE + z_row[d] * (_ONE - gate))
                        else:
                            for d in range(width):
                                gated_row[d] = dy_row[d]

                    for k in range(size - 1, -1, -1):
                        t = start + k
                        du_row, ddelta_row = du[n, t, d0:d1], ddelta[n, t, d0:d1]
                        flag = flags[n, t] if has_flags else 0
                        if flag & SKIP:
                            du_row[:] = np.float32(0.0)
                            ddelta_row[:] = np.float32(0.0)
                            if has_z:
                                dz[n, t, d0:d1] = np.float32(0.0)
                            if flag & RESET:
                                dh[:] = np.float32(0.0)
                            continue
                        at = n * u_strides[0] + t * u_strides[1] + d0
                        u_row = u[at : at + width]
                        step_row, dy_row = steps[k, :width], gated[k, :width]
                        for d in range(width):
                            drive_row[d] = step_row[d] * u_row[d]
                            ddrive_row[d] = np.float32(0.0)
                            dstep_row[d] = np.float32(0.0)
                        for s in range(num_states):
                            b, c = B[n, t, s], C[n, t, s]
                            a, dh_s, dA_s = A2[s, d0:d1], dstate[n, s, d0:d1], dA[unit, s, d0:d1]
                            h0, h1, g = history[k, s, :width], history[k + 1, s, :width], decays[k, s, :width]
                            db = np.float32(0.0)
                            dc = np.float32(0.0)
                            for d in range(width):
                                grad = dh_s[d] + dy_row[d] * c
                                dc += h1[d] * dy_row[d]
                                db += grad * drive_row[d]
                                ddrive_row[d] += grad * b
                                carried = grad * g[d]
                                exponent = carried * h0[d]
                                dA_s[d] += exponent * step_row[d]
                                dstep_row[d] += exponent * a[d]
                                dh_s[d] = carried
                            dB[slab, n, t, s] += db
                            dC[slab, n, t, s] += dc
                        for d in range(width):
                            du_row[d] = ddrive_row[d] * step_row[d] + dy_row[d] * D_block[d]
                            dD_block[d] += dy_row[d] * u_row[d]
                            # A2 carries log2(e), which the derivative of exp does not
                            grad = dstep_row[d] / _LOG2_E + ddrive_row[d] * u_row[d]
                            ddelta_row[d] = grad
                        if use_softplus:
                            at = n * delta_strides[0] + t * delta_strides[1] + d0
                            delta_row = delta[at : at + width]
                            for d in range(width):
                                ddelta_row[d] *= sigmoid(delta_row[d] + bias_block[d])
                        for d in range(width):
                            dbias_block[d] += ddelta_row[d]
