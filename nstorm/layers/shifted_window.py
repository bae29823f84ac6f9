"""Blocks and stages of shifted windows around any sequence mixer."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nstorm.layers.redundancy_dropout import RedundancyDropout
from nstorm.layers.tiled_mlp import gelu_mlp
from nstorm.scan import WindowLayout
from nstorm.scan.token_map import TokenMap
from nstorm.scan.windows import GridMask, Windows, grid_mask


class ShiftedWindowBlock(nn.Module):
    """Mix the tokens of a 4D grid within windows, then transform each token on its own.

    x = x + DropPath(LS(SWM(LN(x)))); x = x + DropPath(LS(MLP(LN(x)))), where SWM cuts the grid into windows, runs
    `mixer` over the tokens of each, and puts them back, and LS is LayerScale, if wanted. Tokens are channel-last here,
    (B, H, W, D, T, C); `ShiftedWindowStage` and the embeddings around it are channel-first.

    The mixer is called as `mixer(x)` on (N, L, dim), and where there is something to keep apart or to leave out, with
    `token_mask` and `reset` besides, as `MambaMixer` takes them. One whose attribute `sequential` is False, such as
    `WindowAttention`, gets its windows in raster order and `attn_mask` instead.

    Args:
        dim: channels of a token.
        mixer: maps sequences (N, L, dim) to (N, L, dim), such as `MambaMixer(dim)`, or a module of your own.
        window_size: tokens of a window along h, w, d, t; an axis the window covers is taken whole.
        shift_size: tokens to shift the windows by along h, w, d, t.
        mlp_ratio: hidden channels of the MLP per channel.
        dropout_rate: dropout in the MLP.
        drop_path_rate: probability to skip a residual branch of a sample.
        order: of the tokens in a window, see `nstorm.scan.scan_order`. Several are scanned one by one, and the mean of
            what comes out is taken; the mixer may then be an `nn.ModuleList` with one for each.
        boundary: `"wrap"`, as published, lets opposite ends of the grid meet in shifted windows, and padding be
            scanned; `"reset"` keeps them apart and leaves padding out. See `nstorm.scan.WindowLayout`.
        layer_scale: initial value of LayerScale's factors on both branches; None for none, as published.
        redundancy_dropout: drops tokens of the mixer's output in training, within its windows (with `"reset"`, within
            windows that are not shifted); None for nothing.
        device: where the parameters live (but for the mixer's).
        dtype: their type.

    References:
        Liu et al., "Swin Transformer", arXiv:2103.14030; "NeuroSTORM", arXiv:2506.11167; Touvron et al., "Going
        deeper with Image Transformers" (LayerScale), arXiv:2103.17239.

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
        order: str | Sequence[str] = "raster",
        boundary: str = "wrap",
        layer_scale: float | None = None,
        redundancy_dropout: RedundancyDropout | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # timm takes seconds to import
        from timm.layers import DropPath, LayerScale, Mlp

        super().__init__()
        self.window_size, self.shift_size = tuple(window_size), tuple(shift_size)
        self.orders = (order,) if isinstance(order, str) else tuple(order)
        self.boundary, self.layer_scale = boundary, layer_scale
        if isinstance(mixer, nn.ModuleList) and len(mixer) != len(self.orders):
            raise ValueError(f"mixer has {len(mixer)} modules, expected one for each of the orders {self.orders}")
        self.norm1 = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mixer = mixer
        self.redundancy_dropout = redundancy_dropout
        self.norm2 = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mlp = Mlp(dim, int(mlp_ratio * dim), drop=dropout_rate).to(device=device, dtype=dtype)
        self.drop_path = DropPath(drop_path_rate)
        self.scale1, self.scale2 = (
            nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale).to(device=device, dtype=dtype)
            for _ in range(2)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset norms, scales and MLP (truncated normal, 0.02; biases 0). The mixer keeps its own initialisation."""
        self.norm1.reset_parameters()
        self.norm2.reset_parameters()
        if self.layer_scale is not None:
            for scale in (*self.scale1.parameters(), *self.scale2.parameters()):
                nn.init.constant_(scale, self.layer_scale)
        for layer in self.mlp.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(
        self, x: Float[Tensor, "b h w d t c"], mask: Bool[Tensor, "*b h w d"] | None = None
    ) -> Float[Tensor, "b h w d t c"]:
        """Map tokens (B, H, W, D, T, C) to the same shape.

        Args:
            x: tokens.
            mask: (H, W, D), or (B, H, W, D) with one for each sample, False for tokens to leave out, such as air.
                They are 0 in the output, enter nothing, and cost nothing.
        """
        cells = None if mask is None else grid_mask(mask, x.shape[4])
        return on_tokens(self.forward_tokens, x, cells)

    def forward_tokens(
        self, x: Float[Tensor, "b tokens c"], grid: tuple[int, ...], mask: GridMask | None = None
    ) -> Float[Tensor, "b tokens c"]:
        """Map a list of tokens: those of the grid in raster order, or those of them that the mask holds."""
        mixed = self._drop_redundant(self._mix(self.norm1(x), grid, mask), grid, mask)
        x = x + self._drop(self.scale1(mixed), mask)
        return x + self._drop(self.scale2(self._transform(self.norm2(x))), mask)

    def _drop(self, x: Tensor, mask: GridMask | None) -> Tensor:
        if mask is None or mask.shape[0] == 1 or not self.training:
            return self.drop_path(x)
        # one list holds the tokens of all samples, and each of these is dropped or not
        return x * _to_tokens(self.drop_path(x.new_ones((mask.shape[0], 1))), mask)

    def _transform(self, x: Tensor) -> Tensor:
        first, second = self.mlp.fc1, self.mlp.fc2
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not self._has_plain_mlp():
            return self.mlp(x)
        tokens = x.reshape(-1, x.shape[-1])
        return gelu_mlp(tokens, first.weight, first.bias, second.weight, second.bias).reshape(x.shape)

    def _has_plain_mlp(self) -> bool:
        """Whether the MLP is nothing but two linear layers and a GELU: no adapter, no hook, no dropout."""
        mlp = self.mlp
        layers = (mlp, mlp.fc1, mlp.act, mlp.fc2)
        hooks = (h for m in layers for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks))
        types = type(mlp.fc1) is type(mlp.fc2) is nn.Linear and type(mlp.act) is nn.GELU
        return types and not any(hooks) and not (self.training and mlp.drop1.p)

    def _mix(self, x: Tensor, grid: tuple[int, ...], mask: GridMask | None) -> Tensor:
        mixers = self.mixer if isinstance(self.mixer, nn.ModuleList) else [self.mixer] * len(self.orders)
        total: Tensor | None = None
        for mixer, order in zip(mixers, self.orders, strict=True):
            sequential = getattr(mixer, "sequential", True)
            windows = _windows(grid, self.window_size, self.shift_size, order, self.boundary, mask, sequential)
            tokens = windows.cut(x)
            mixed = windows.join(mixer(tokens, **_arguments(windows, sequential, tokens, mixer)))
            total = mixed if total is None else total + mixed
        assert total is not None
        return total / len(self.orders) if len(self.orders) > 1 else total

    def _drop_redundant(self, x: Tensor, grid: tuple[int, ...], mask: GridMask | None) -> Tensor:
        dropout = self.redundancy_dropout
        if dropout is None or not dropout.active:
            return x
        # A shifted window at the border holds both ends of the grid: as published they are neighbours, but where they
        # are to stay apart, unshifted windows are compared, in which no two tokens are further apart than they look.
        shift = self.shift_size if self.boundary == "wrap" else (0,) * len(grid)
        windows = _windows(grid, self.window_size, shift, "raster", "wrap", mask, True)
        with torch.no_grad():
            present, per_sample = _occupied(windows, mask, len(x))
            tokens = windows.cut(x).unflatten(1, windows.window)
            token_mask = None if present is None else present.to(x.device).reshape(tokens.shape[:-1])
            factors = dropout.factors(tokens, token_mask, per_sample)
            factors = windows.join(factors.flatten(1)[..., None])
        return x * factors


# torch.compile would trace into how windows are made and moved, in numpy; it leaves the graph here instead
@torch.compiler.disable
def _windows(
    grid: tuple[int, ...],
    window_size: tuple[int, ...],
    shift_size: tuple[int, ...],
    order: str,
    boundary: str,
    mask: GridMask | None,
    sequential: bool,
) -> Windows:
    return WindowLayout(grid, window_size, shift_size, order, boundary).windows(mask, sequential)


@torch.compiler.disable
def _to_tokens(x: Float[Tensor, "b c"], mask: GridMask) -> Float[Tensor, "tokens c"]:
    """Repeat what each sample has for each of its tokens."""
    counts = mask.tokens_per_grid
    return x.repeat_interleave(torch.tensor(counts, device=x.device), 0, output_size=sum(counts))


@torch.compiler.disable
def _occupied(
    windows: Windows, mask: GridMask | None, batch: int
) -> tuple[Bool[Tensor, "windows places"] | None, list[int]]:
    """Which places (windows, places) of a batch hold a token, None if all do; and the number of windows per sample.

    Padding holds none, also where the mixer scans it: what came out for it is gone.
    """
    index = windows.places.index.reshape(-1, windows.num_tokens)
    present = None if (index >= 0).all() else torch.from_numpy(np.tile(index >= 0, (batch, 1)))
    if mask is None or mask.shape[0] == 1:
        return present, [len(index)] * batch
    # one list holds the tokens of all samples: the last token of a window tells whose it is
    ends = np.cumsum(mask.tokens_per_grid)
    owners = np.searchsorted(ends, index.max(axis=1), side="right")
    return present, np.bincount(owners, minlength=len(ends)).tolist()


def _arguments(windows: Windows, sequential: bool, tokens: Tensor, mixer: nn.Module) -> dict[str, Any]:
    if sequential:
        return dict(windows.flags(tokens))
    arguments: dict[str, Any] = {}
    if windows.attn_mask is not None:
        arguments["attn_mask"] = torch.from_numpy(windows.attn_mask).to(tokens.device)
    if getattr(mixer, "window_size", None) is not None:
        arguments["window"] = windows.window
    return arguments


def on_tokens(
    function: Callable[..., Tensor], x: Float[Tensor, "b h w d t c"], mask: GridMask | None
) -> Float[Tensor, "b h w d t c"]:
    """Run a function of a list of tokens on a grid of them; those outside of the mask are 0 afterwards."""
    grid = tuple(x.shape[1:-1])
    tokens = x.flatten(1, -2)
    if mask is None or len(x) == 0:
        return function(tokens, grid, None).reshape(x.shape)
    if mask.shape[1:] != grid or mask.shape[0] not in (1, len(x)):
        raise ValueError(f"mask has shape {mask.shape[:-1]}, expected {grid[:3]} or {(len(x), *grid[:3])}")
    if mask.num_tokens == 0:
        raise ValueError("mask is empty: it must be True for the tokens to compute")
    if mask.shape[0] > 1:
        # the samples' tokens follow each other in one list
        tokens = tokens.reshape(1, -1, x.shape[-1])
    return _put(function(_take(tokens, mask), grid, mask), mask).reshape(x.shape)


@torch.compiler.disable
def _take(tokens: Float[Tensor, "b cells c"], mask: GridMask) -> Float[Tensor, "b tokens c"]:
    return _held(mask).take(tokens)


@torch.compiler.disable
def _put(tokens: Float[Tensor, "b tokens c"], mask: GridMask) -> Float[Tensor, "b cells c"]:
    return _held(mask).put(tokens)


@lru_cache(maxsize=32)
def _held(mask: GridMask) -> TokenMap:
    cells = mask.cells.ravel()
    return TokenMap.of(cells.nonzero()[0], len(cells))


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
        downsample: runs after them on (B, H, W, D, T, C), such as `PatchMerging4D` or `PatchExpanding4D`.
        use_checkpoint: keep only what enters each block for the backward pass and compute the block again there: less
            memory, a third more time.
        redundancy_dropout: makes that of a block, such as `RedundancyDropout`; None for none.
        block_kwargs: more arguments of the blocks: `order`, `boundary`, `layer_scale`.

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
        use_checkpoint: bool = False,
        redundancy_dropout: Callable[[], RedundancyDropout] | None = None,
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        rates = [drop_path_rate] * depth if isinstance(drop_path_rate, int | float) else list(drop_path_rate)
        if len(rates) != depth:
            raise ValueError(f"drop_path_rate has {len(rates)} entries, expected one for each of {depth} blocks")
        half = [size // 2 for size in window_size]
        self.use_checkpoint = use_checkpoint
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
                redundancy_dropout=None if redundancy_dropout is None else redundancy_dropout(),
                **block_kwargs,
            )
            for index, rate in enumerate(rates)
        )
        self.downsample = nn.Identity() if downsample is None else downsample

    def forward(
        self, x: Float[Tensor, "b c h w d t"], mask: Bool[Tensor, "*b h w d"] | None = None
    ) -> Float[Tensor, "b c_out gh gw gd t"]:
        """Map tokens (B, C, H, W, D, T) to (B, C_out, H', W', D', T).

        Args:
            x: tokens.
            mask: (H, W, D) or (B, H, W, D), False for tokens to leave out; what comes after the blocks meets zeros
                in their place.
        """
        cells = None if mask is None else grid_mask(mask, x.shape[5])
        x = rearrange(self.position(x), "b c h w d t -> b h w d t c")
        x = on_tokens(self._run_blocks, x, cells)
        return rearrange(self.downsample(x), "b h w d t c -> b c h w d t")

    def _run_blocks(self, x: Tensor, grid: tuple[int, ...], mask: GridMask | None) -> Tensor:
        for block in self.blocks:
            assert isinstance(block, ShiftedWindowBlock)
            if self.use_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block.forward_tokens, x, grid, mask, use_reentrant=False)
            else:
                x = block.forward_tokens(x, grid, mask)
        return x
