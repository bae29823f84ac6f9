"""Learned position embedding of 4D tokens, separable in space and time."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PositionEmbedding4D(nn.Module):
    """Add a learned vector per place and a learned vector per frame to every token.

    A clip shorter than the embedding uses its first frames, which is right where its TR is the same. With
    `interpolate`, tokens on another spatial grid get the learned field sampled at their centres (trilinear), as
    though both grids covered the same field of view: right for another resolution or patch size, not for a crop. A
    longer clip likewise gets the vectors of time stretched over its whole length (linear), so that a vector no longer
    stands for a number of seconds; `TimeEmbedding` is for that.

    Args:
        dim: channels of a token.
        grid_size: tokens along h, w, d and the largest number of tokens along t.
        interpolate: take other spatial grids and longer clips, at every call. `resize_position_embeddings` resizes
            once instead, when weights are loaded.
        device: where the parameters live.
        dtype: their type.

    Raises:
        ValueError: in `forward` without `interpolate`, if the grid differs in space or is longer in time.

    References:
        Kim et al., "SwiFT", arXiv:2307.05916.

    Example:
        >>> import torch
        >>> from nstorm.layers import PositionEmbedding4D
        >>> embed = PositionEmbedding4D(36, grid_size=(4, 5, 4, 20))
        >>> embed(torch.randn(2, 36, 4, 5, 4, 7)).shape
        torch.Size([2, 36, 4, 5, 4, 7])
        >>> embed = PositionEmbedding4D(36, grid_size=(4, 5, 4, 20), interpolate=True)
        >>> embed(torch.randn(2, 36, 8, 9, 8, 50)).shape
        torch.Size([2, 36, 8, 9, 8, 50])
    """

    def __init__(
        self,
        dim: int,
        grid_size: Sequence[int],
        interpolate: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        h, w, d, t = grid_size
        self.interpolate = interpolate
        self.spatial = nn.Parameter(torch.empty(1, dim, h, w, d, 1, device=device, dtype=dtype))
        self.temporal = nn.Parameter(torch.empty(1, dim, 1, 1, 1, t, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both embeddings from a truncated normal of standard deviation 0.02."""
        nn.init.trunc_normal_(self.spatial, std=0.02)
        nn.init.trunc_normal_(self.temporal, std=0.02)

    def forward(self, x: Float[Tensor, "b c h w d t"]) -> Float[Tensor, "b c h w d t"]:
        """Add the embeddings to tokens (B, C, H, W, D, T)."""
        grid = (*self.spatial.shape[2:5], self.temporal.shape[5])
        space, num_frames = x.shape[2:5], x.shape[5]
        if not self.interpolate and (space != grid[:3] or num_frames > grid[3]):
            raise ValueError(
                f"tokens on the grid {tuple(x.shape[2:])} do not fit the position embedding for {grid}: "
                "space must be equal and time at most as long; build it with a grid_size that fits "
                "or with interpolate=True, or bring learned weights to the new grid with resize_position_embeddings"
            )
        return x + _resize_space(self.spatial, space) + _resize_time(self.temporal, num_frames)


@torch.no_grad()
def resize_position_embeddings(state_dict: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Bring the position embeddings of a state dict to the grids of `module`, as `PositionEmbedding4D` interpolates.

    Args:
        state_dict: of a module like `module` but for its grids. It is left as it is.
        module: the layer, stage or net to load it into.

    Returns:
        A state dict for `module`: the tensors of each of its `PositionEmbedding4D` resized, all others as they were.

    Example:
        >>> import torch
        >>> from nstorm.layers.position_embedding import resize_position_embeddings
        >>> from nstorm.nets import NeuroSTORM
        >>> trained = NeuroSTORM((24, 24, 24, 8), feature_size=12, depths=(1, 1))
        >>> net = NeuroSTORM((36, 30, 36, 20), feature_size=12, depths=(1, 1))
        >>> net.load_state_dict(resize_position_embeddings(trained.state_dict(), net))
        <All keys matched successfully>
    """
    resized = dict(state_dict)
    for name, layer in module.named_modules():
        if isinstance(layer, PositionEmbedding4D):
            prefix = f"{name}." if name else ""
            if (key := f"{prefix}spatial") in resized:
                resized[key] = _resize_space(resized[key], layer.spatial.shape[2:5])
            if (key := f"{prefix}temporal") in resized:
                resized[key] = _resize_time(resized[key], layer.temporal.shape[5])
    return resized


def _resize_space(spatial: Float[Tensor, "1 c h w d 1"], size: Sequence[int]) -> Float[Tensor, "1 c gh gw gd 1"]:
    if spatial.shape[2:5] == size:
        return spatial
    # align_corners=False: the centres of the tokens, not those of the outermost ones, span the field of view
    return F.interpolate(spatial[..., 0], tuple(size), mode="trilinear", align_corners=False)[..., None]


def _resize_time(temporal: Float[Tensor, "1 c 1 1 1 t"], num_frames: int) -> Float[Tensor, "1 c 1 1 1 frames"]:
    if num_frames <= temporal.shape[5]:
        # taken and not sliced: the strides of a view would tie an exported program to shorter clips only
        return temporal.index_select(5, torch.arange(num_frames, device=temporal.device))
    stretched = F.interpolate(temporal.flatten(2), num_frames, mode="linear", align_corners=False)
    return stretched[:, :, None, None, None]
