"""Blocks and stages of shifted windows around any sequence mixer."""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nstorm.scan import WindowLayout


class ShiftedWindowBlock(nn.Module):
    """Mix the tokens of a 4D grid within windows, then transform each token on its own.

    x = x + DropPath(SWM(LN(x))); x = x + DropPath(MLP(LN(x))), where SWM cuts the grid into windows, runs `mixer`
    over the tokens of each (raster order, time fastest), and puts them back. Tokens are channel-last here,
    (B, H, W, D, T, C); `ShiftedWindowStage` and the embeddings around it are channel-first.

    Args:
        dim: channels of a token.
        mixer: maps sequences (N, L, dim) to (N, L, dim), such as `MambaMixer(dim)`, or a module of your own.
        window_size: tokens of a window along h, w, d, t; an axis the window covers is taken whole.
        shift_size: tokens to shift the windows by along h, w, d, t.
        mlp_ratio: hidden channels of the MLP per channel.
        dropout_rate: dropout in the MLP.
        drop_path_rate: probability to skip a residual branch of a sample.
        device: where the parameters live (but for the mixer's).
        dtype: their type.

    References:
        Liu et al., "Swin Transformer", arXiv:2103.14030; "NeuroSTORM", arXiv:2506.11167.

    Example:
        >>> import torch
        >>> from nstorm.layers import MambaMixer, ShiftedWindowBlock
        >>> block = ShiftedWindowBlock(24, MambaMixer(24), window_size=(4, 4, 4, 4), shift_size=(2, 2, 2, 2))
        >>> block(torch.randn(1, 5, 4, 3, 7, 24)).shape
        torch.Size([1, 5, 4, 3, 7, 24])
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        window_size: Sequence[int],
        shift_size: Sequence[int] = (0, 0, 0, 0),
        mlp_ratio: float = 4.0,
        dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # timm takes seconds to import
        from timm.layers import DropPath, Mlp

        super().__init__()
        self.window_size, self.shift_size = tuple(window_size), tuple(shift_size)
        self.norm1 = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mlp = Mlp(dim, int(mlp_ratio * dim), drop=dropout_rate).to(device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset norms and MLP (truncated normal, 0.02; biases 0). The mixer keeps its own initialisation."""
        self.norm1.reset_parameters()
        self.norm2.reset_parameters()
        for layer in self.mlp.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "b h w d t c"]) -> Float[Tensor, "b h w d t c"]:
        """Map tokens (B, H, W, D, T, C) to the same shape."""
        layout = WindowLayout(tuple(x.shape[1:-1]), self.window_size, self.shift_size)
        windows = layout.partition(self.norm1(x))
        x = x + self.drop_path(layout.reverse(self.mixer(windows)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class ShiftedWindowStage(nn.Module):
    """A row of `ShiftedWindowBlock`s whose every second one is shifted by half a window.

    Args:
        dim: channels of a token.
        depth: number of blocks.
        mixer: makes the mixer of a block from `dim`, such as `MambaMixer`.
        window_size: tokens of a window along h, w, d, t.
        shift: shift every second block; False for windows that never move.
        mlp_ratio: hidden channels of the MLP per channel.
        dropout_rate: dropout in the MLP.
        drop_path_rate: probability to skip a residual branch: one for all blocks, or one per block.
        position: runs before the blocks on (B, C, H, W, D, T), such as `PositionEmbedding4D`.
        downsample: runs after them on (B, H, W, D, T, C), such as `PatchMerging4D`.

    Example:
        >>> import torch
        >>> from nstorm.layers import MambaMixer, PatchMerging4D, ShiftedWindowStage
        >>> stage = ShiftedWindowStage(24, 2, MambaMixer, window_size=(4, 4, 4, 4), downsample=PatchMerging4D(24))
        >>> stage(torch.randn(1, 24, 6, 4, 6, 7)).shape
        torch.Size([1, 48, 3, 2, 3, 7])
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        mixer: Callable[[int], nn.Module],
        window_size: Sequence[int],
        shift: bool = True,
        mlp_ratio: float = 4.0,
        dropout_rate: float = 0.0,
        drop_path_rate: float | Sequence[float] = 0.0,
        position: nn.Module | None = None,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        rates = [drop_path_rate] * depth if isinstance(drop_path_rate, int | float) else list(drop_path_rate)
        if len(rates) != depth:
            raise ValueError(f"drop_path_rate has {len(rates)} entries, expected one for each of {depth} blocks")
        half = [size // 2 for size in window_size]
        self.position = nn.Identity() if position is None else position
        self.blocks = nn.ModuleList(
            ShiftedWindowBlock(
                dim,
                mixer(dim),
                window_size,
                half if shift and index % 2 else [0] * len(half),
                mlp_ratio,
                dropout_rate,
                rate,
            )
            for index, rate in enumerate(rates)
        )
        self.downsample = nn.Identity() if downsample is None else downsample

    def forward(self, x: Float[Tensor, "b c h w d t"]) -> Float[Tensor, "b c_out gh gw gd t"]:
        """Map tokens (B, C, H, W, D, T) to (B, C_out, H', W', D', T)."""
        x = rearrange(self.position(x), "b c h w d t -> b h w d t c")
        for block in self.blocks:
            x = block(x)
        return rearrange(self.downsample(x), "b h w d t c -> b c h w d t")
