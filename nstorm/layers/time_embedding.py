"""Embedding of time in seconds."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nstorm.layers.sincos import SinCos


class TimeEmbedding(nn.Module):
    """Add a learned linear map of sines and cosines of each frame's time in seconds.

    Frame i of a clip stands at onset + i TR. The same time therefore gives the same vector at every TR, and clips of
    different TR can share a batch. The map starts at zero: put into a trained model, it changes nothing until it is
    trained.

    Args:
        dim: channels of a token.
        num_periods: periods of the sines and cosines, a geometric series.
        min_period: shortest period in seconds. The default is faster than the BOLD signal.
        max_period: longest period in seconds. The default is longer than most runs.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: if the periods are not positive or out of order; in `forward`, if `tr` is not positive, or if `tr`
            or `onset` holds anything but one number per sample. A tensor's values are checked only where that needs
            no waiting: on the CPU, and not inside a traced graph.

    Example:
        >>> import torch
        >>> from nstorm.layers.time_embedding import TimeEmbedding
        >>> embed = TimeEmbedding(36)
        >>> embed(torch.randn(2, 36, 4, 5, 4, 7), tr=0.8).shape
        torch.Size([2, 36, 4, 5, 4, 7])
        >>> embed(torch.randn(2, 36, 4, 5, 4, 7), tr=torch.tensor([0.8, 2.0])).shape
        torch.Size([2, 36, 4, 5, 4, 7])
    """

    def __init__(
        self,
        dim: int,
        num_periods: int = 16,
        min_period: float = 5.0,
        max_period: float = 1200.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.sincos = SinCos(num_periods, min_period, max_period)
        self.proj = nn.Linear(2 * num_periods, dim, bias=False, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the map to 0."""
        nn.init.zeros_(self.proj.weight)

    def forward(
        self,
        x: Float[Tensor, "b c h w d t"],
        tr: float | Float[Tensor, " b"],
        onset: float | Float[Tensor, " b"] = 0.0,
    ) -> Float[Tensor, "b c h w d t"]:
        """Add the embedding to tokens (B, C, H, W, D, T).

        Args:
            x: the tokens.
            tr: seconds from one token to the next along t, one number or one per sample: the repetition time, times
                the frames of a patch where patches span several.
            onset: time of the first frame in seconds, such as its time since the run began, likewise.
        """
        _require_one_per_sample("tr", tr, x.shape[0])
        _require_one_per_sample("onset", onset, x.shape[0])
        _require_positive(tr)
        dtype = torch.promote_types(x.dtype, torch.float32)
        frames = torch.arange(x.shape[-1], device=x.device, dtype=dtype)
        step, start = (v.to(x.device, dtype)[:, None] if isinstance(v, Tensor) else v for v in (tr, onset))
        features = self.sincos(start + frames * step)  # (b, t, features), or (t, features) where all clips agree
        embedding = self.proj(features.to(self.proj.weight.dtype))
        return x + rearrange(embedding, "... t c -> ... c 1 1 1 t")


def _require_one_per_sample(name: str, value: float | Tensor, num_samples: int) -> None:
    if isinstance(value, Tensor) and value.shape != (num_samples,):
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected ({num_samples},), one per sample")


def _require_positive(tr: float | Tensor) -> None:
    if isinstance(tr, Tensor):
        readable = tr.device.type == "cpu" and not torch.compiler.is_compiling()
        positive = not readable or bool(((tr > 0) & tr.isfinite()).all())
    else:
        positive = 0 < tr < math.inf
    if not positive:
        raise ValueError(f"tr {tr} must be a positive number of seconds")
