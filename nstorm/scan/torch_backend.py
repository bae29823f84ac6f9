"""The `torch` backend: the scan in PyTorch operations, for any device, with the state in float32 or float64.

Layout. Time comes first and channels last: (k, n, s, d) for the states of a chunk of k tokens. One `addcmul_` a token
carries the state on; everything else is done for a whole chunk at once, by operations that neither autocast nor a
reduced matmul precision rounds.

Memory. Forward keeps the state before every `CHUNK` tokens; backward recomputes the states of one chunk at a time from
there. Sequences are taken in slices, so that no tensor of states has more than 2^18 elements on a CPU, whose cache it
should fit, or 2^24 elsewhere; one chunk of one sequence is never cut. Backward holds about six such tensors.

Skipped tokens. Whatever their inputs hold, NaN included, reaches nothing: it is replaced before it is multiplied.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 32
_MAX_ELEMENTS_CPU = 2**18
_MAX_ELEMENTS = 2**24


def state_dtype(u: Tensor) -> torch.dtype:
    """The type of the state: float64 for a float64 input, else float32."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def _plain(x: Tensor) -> Tensor:
    """Without history, and without what a subclass such as MONAI's MetaTensor does to operations."""
    return x.detach().as_subclass(Tensor)


class _Call:
    """What forward and backward are given alike, and the parts in which they take it."""

    def __init__(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
    ) -> None:  # fmt: skip
        self.dtype, self.device = state_dtype(u), u.device
        self.num_sequences, self.length, self.num_channels = u.shape
        self.num_states = A.shape[1]
        self.u, self.delta, self.B, self.C = (_plain(x) for x in (u, delta, B, C))
        self.z = None if z is None else _plain(z)
        self.skip = None if token_mask is None else ~_plain(token_mask)
        self.reset = None if reset is None else _plain(reset)
        self.A = _plain(A).t().to(self.dtype).contiguous()  # (s, d)
        self.D = None if D is None else _plain(D).to(self.dtype)
        self.delta_bias = None if delta_bias is None else _plain(delta_bias).to(self.dtype)
        self.softplus = delta_softplus

    def new(self, make: Callable[..., Tensor], *shape: int) -> Tensor:
        """A tensor made by `torch.empty` or `torch.zeros`, in the type and on the device of the state."""
        return make(shape, dtype=self.dtype, device=self.device)

    def slices(self) -> Iterator[slice]:
        """The sequences, as many at a time as may be."""
        elements = _MAX_ELEMENTS_CPU if self.device.type == "cpu" else _MAX_ELEMENTS
        size = max(1, elements // max(1, CHUNK * self.num_states * self.num_channels))
        return (slice(first, first + size) for first in range(0, self.num_sequences, size))

    def chunks(self) -> range:
        """The first token of every chunk."""
        return range(0, self.length, CHUNK)


class _Chunk:
    """Up to `CHUNK` tokens of a slice of sequences, and the states these tokens pass through.

    Attributes:
        x: input (k, n, d), 0 at skipped tokens as are `step`, B and C.
        raw: step size before softplus (k, n, d).
        step: step size (k, n, d).
        B: (k, n, s, 1), or (k, n, s, d) in groups, or (1, 1, s, d) where it is constant; so is C.
        decay: what a token leaves of the state, (k, n, s, d).
        history: the state before the first token and after each, (k + 1, n, s, d).
    """

    def __init__(self, call: _Call, rows: slice, first: int, state: Tensor) -> None:
        self.call, self.rows, self.tokens = call, rows, slice(first, first + CHUNK)
        self.skip = None if call.skip is None else self.part(call.skip, torch.bool)[..., None]  # (k, n, 1)
        self.reset = None if call.reset is None else self.part(call.reset, torch.bool)[..., None, None]
        self.x = self.without_skipped(self.part(call.u))
        self.raw = self.part(call.delta)
        if call.delta_bias is not None:
            self.raw = self.raw + call.delta_bias
        self.step = self.without_skipped(F.softplus(self.raw) if call.softplus else self.raw)
        self.B, self.C = self._matrix(call.B), self._matrix(call.C)

        self.decay = (self.step[:, :, None] * call.A).exp_()
        if self.skip is not None:
            self.decay.masked_fill_(self.skip[..., None], 1.0)
        if self.reset is not None:
            self.decay.masked_fill_(self.reset, 0.0)
        self.history = call.new(torch.empty, len(self.decay) + 1, *state.shape)
        self.history[0] = state
        torch.mul((self.step * self.x)[:, :, None], self.B, out=self.history[1:])
        states = self.history.unbind()
        for k, decay in enumerate(self.decay.unbind()):
            states[k + 1].addcmul_(decay, self.without_reset(states[k], k))

    def part(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """This chunk of an (n, l, ...) tensor as (k, n, ...)."""
        return x[self.rows, self.tokens].transpose(0, 1).to(dtype or self.call.dtype).contiguous()

    def without_skipped(self, x: Tensor) -> Tensor:
        return x if self.skip is None else x.masked_fill(self.skip, 0.0)

    def without_reset(self, state: Tensor, k: int) -> Tensor:
        """What of the state (or of its gradient) passes the border before token k: multiplying by 0 would keep NaN."""
        return state if self.reset is None else state.masked_fill(self.reset[k], 0.0)

    def _matrix(self, matrix: Tensor) -> Tensor:
        if matrix.dim() == 2:
            x = matrix.to(self.call.dtype).t()[None, None]
        elif matrix.dim() == 3:
            x = self.part(matrix)[..., None]
        else:
            group_size = self.call.num_channels // matrix.shape[2]
            x = self.part(matrix).transpose(2, 3).repeat_interleave(group_size, dim=-1)
        return x if self.skip is None else x.masked_fill(self.skip[..., None], 0.0)

    def put_matrix_grad(self, grad: Tensor, product: Tensor) -> None:
        """Sum the gradients (k, n, s, d) that the channels give to B or C, and put them at their place."""
        if self.skip is not None:
            product = product.masked_fill(self.skip[..., None], 0.0)
        if grad.dim() == 2:
            grad += product.sum((0, 1)).t()
        elif grad.dim() == 3:
            grad[self.rows, self.tokens] = product.sum(-1).transpose(0, 1)
        else:
            in_groups = product.unflatten(-1, (grad.shape[2], -1)).sum(-1)  # (k, n, s, g)
            grad[self.rows, self.tokens] = in_groups.permute(1, 0, 3, 2)

    def output(self) -> Tensor:
        """The output (k, n, d) before the gate."""
        y = (self.history[1:] * self.C).sum(2)
        return y if self.call.D is None else y.addcmul_(self.call.D, self.x)


def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, initial_state: Tensor | None,
    token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return y (n, l, d), the last state (n, d, s), and the states backward starts from (chunks, n, s, d).

    B and C are (n, l, s), (n, l, g, s) in groups of channels, or (d, s).
    """
    call = _Call(u, delta, A, B, C, D, z, delta_bias, delta_softplus, token_mask, reset)
    n, length, d, s = call.num_sequences, call.length, call.num_channels, call.num_states
    y = call.new(torch.empty, n, length, d)
    states = call.new(torch.empty, len(call.chunks()), n, s, d)
    last_state = call.new(torch.zeros, n, s, d)
    if initial_state is not None:
        last_state.copy_(_plain(initial_state).transpose(1, 2))
    for rows in call.slices():
        state = last_state[rows]
        for index, first in enumerate(call.chunks()):
            states[index, rows] = state
            chunk = _Chunk(call, rows, first, state)
            out = chunk.output()
            if call.z is not None:
                out = out * F.silu(chunk.part(call.z))
            y[rows, chunk.tokens] = chunk.without_skipped(out).transpose(0, 1)
            state = chunk.history[-1]
        last_state[rows] = state
    return y.to(u.dtype), last_state.transpose(1, 2).clone(memory_format=torch.contiguous_format), states


def _through_gate(chunk: _Chunk, dy: Tensor, dz: Tensor) -> Tensor:
    """Give the gradient (k, n, d) of a chunk's output before the gate, and fill dz."""
    grad = chunk.part(dy)
    if chunk.call.z is not None:
        gate = chunk.part(chunk.call.z)
        grad_z = torch.ops.aten.silu_backward(grad * chunk.output(), gate)
        dz[chunk.rows, chunk.tokens] = chunk.without_skipped(grad_z).transpose(0, 1)
        grad = grad * F.silu(gate)
    return chunk.without_skipped(grad)


def _state_grads(chunk: _Chunk, grad_y: Tensor, grad_after: Tensor) -> Tensor:
    """Give the gradient (k, n, s, d) of the state after every token, from that of the state after the chunk."""
    grad_h = grad_y[:, :, None] * chunk.C
    grads, decays = grad_h.unbind(), chunk.decay.unbind()
    grads[-1].add_(grad_after)
    for k in range(len(grads) - 1, 0, -1):
        grads[k - 1].addcmul_(decays[k], chunk.without_reset(grads[k], k))
    return grad_h


def backward(
    dy: Tensor, dlast_state: Tensor, states: Tensor,
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, delta_softplus: bool, token_mask: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the gradients of u, delta, A, B, C, D, z, delta_bias and initial_state, in the type of the state."""
    call = _Call(u, delta, A, B, C, D, z, delta_bias, delta_softplus, token_mask, reset)
    dy = _plain(dy)
    du, ddelta = call.new(torch.empty, *u.shape), call.new(torch.empty, *u.shape)
    dz = call.new(torch.zeros, *(u.shape if z is not None else (1, 1, 1)))
    dA, dD, dbias = (call.new(torch.zeros, *shape) for shape in (call.A.shape, u.shape[2:], u.shape[2:]))
    dB, dC = call.new(torch.zeros, *B.shape), call.new(torch.zeros, *C.shape)
    states = states.view(len(call.chunks()), call.num_sequences, call.num_states, call.num_channels)
    dstate = call.new(torch.empty, *states.shape[1:])
    dstate.copy_(_plain(dlast_state).transpose(1, 2))
    for rows in call.slices():
        carried = dstate[rows]
        for index, first in reversed(list(enumerate(call.chunks()))):
            chunk = _Chunk(call, rows, first, states[index, rows])
            grad_y = _through_gate(chunk, dy, dz)
            grad_h = _state_grads(chunk, grad_y, carried)
            chunk.put_matrix_grad(dC, chunk.history[1:] * grad_y[:, :, None])
            chunk.put_matrix_grad(dB, grad_h * (chunk.step * chunk.x)[:, :, None])
            grad_drive = (grad_h * chunk.B).sum(2)
            grad_before = chunk.decay.mul_(grad_h)
            carried = chunk.without_reset(grad_before[0].clone(), 0)
            before = chunk.history[:-1]
            if chunk.reset is not None:
                before = before.masked_fill(chunk.reset, 0.0)
            grad_exponent = grad_before.mul_(before)
            if chunk.skip is not None:
                grad_exponent.masked_fill_(chunk.skip[..., None], 0.0)
            dA += (grad_exponent * chunk.step[:, :, None]).sum((0, 1))
            grad_step = (grad_exponent * call.A).sum(2) + grad_drive * chunk.x
            if call.softplus:
                grad_step = torch.ops.aten.softplus_backward(grad_step, chunk.raw, 1.0, 20.0)
            grad_step = chunk.without_skipped(grad_step)
            grad_x = grad_drive * chunk.step
            if call.D is not None:
                grad_x.addcmul_(grad_y, call.D)
            ddelta[rows, chunk.tokens] = grad_step.transpose(0, 1)
            du[rows, chunk.tokens] = chunk.without_skipped(grad_x).transpose(0, 1)
            dD += (grad_y * chunk.x).sum((0, 1))
            dbias += grad_step.sum((0, 1))
        dstate[rows] = carried
    return du, ddelta, dA.t().contiguous(), dB, dC, dD, dz, dbias, dstate.transpose(1, 2).contiguous()
