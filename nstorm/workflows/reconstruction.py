"""How well a masked autoencoder fills in what was hidden, beside simple ways to do it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from nstorm.losses.patches import over_volumes, spread_tokens
from nstorm.nets import MaskedAutoencoder
from nstorm.workflows.eval_mode import eval_mode
from nstorm.workflows.evaluate import Estimate, bootstrap_ratio


@dataclass(frozen=True)
class ReconstructionErrors:
    """Squared errors on the hidden voxels of clips, summed frame by frame.

    Attributes:
        model: of the autoencoder, (clips, frames).
        voxel_mean: of the mean of each voxel, 0 for z-scored data.
        interpolation: of straight lines between the visible frames of each voxel.
        num_voxels: hidden voxels that they are sums over, (clips, frames).
    """

    model: NDArray[np.float64]
    voxel_mean: NDArray[np.float64]
    interpolation: NDArray[np.float64]
    num_voxels: NDArray[np.float64]

    def mean(self, method: str, *, block: int = 5, seed: int = 0) -> Estimate:
        """Mean squared error of `"model"`, `"voxel_mean"` or `"interpolation"`, with its 95 % interval.

        Args:
            method: whose error.
            block: frames that make one unit of the bootstrap; BOLD of neighbouring frames is not independent.
            seed: of the bootstrap.
        """
        return self._estimate(getattr(self, method), block, seed)

    def saved(self, baseline: str, *, block: int = 5, seed: int = 0) -> Estimate:
        """By how much the model's mean squared error is below a baseline's, on the same voxels."""
        return self._estimate(getattr(self, baseline) - self.model, block, seed)

    def _estimate(self, sums: NDArray[np.float64], block: int, seed: int) -> Estimate:
        starts = np.arange(0, sums.shape[1], block)
        errors, voxels = (np.add.reduceat(values, starts, axis=1).ravel() for values in (sums, self.num_voxels))
        return bootstrap_ratio(errors[voxels > 0], voxels[voxels > 0], seed=seed)

    def __str__(self) -> str:
        lines = {
            "model": "masked autoencoder",
            "interpolation": "between visible frames",
            "voxel_mean": "mean of each voxel",
        }
        return "\n".join(f"{text:>24}: {self.mean(name)}" for name, text in lines.items())


@torch.no_grad()
def reconstruction_errors(
    net: MaskedAutoencoder,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    seed: int = 0,
    num_masks: int = 1,
) -> ReconstructionErrors:
    """Hide tokens of clips the net has not learned from, and measure how well it fills them in.

    The same voxels are filled in by the mean of the voxel over its run, and by straight lines in time between its
    visible frames (before the first and after the last of them, by that frame; by the mean where all are hidden).

    Args:
        net: a `MaskedAutoencoder`. It is set to eval mode, and back. Where its loss has normalised patches, what it
            fills in gets their mean and deviation, which the two others do not know.
        batches: of z-scored clips, as a `ClipDataset`'s loader gives them: `image` (B, 1, H, W, D, T), and `mask`
            (B, 1, H, W, D) if there is a brain mask.
        seed: of the masks, so that nets are compared on the same ones.
        num_masks: masks drawn for each clip, over which its errors are summed.

    Raises:
        ValueError: there are no batches.

    Example:
        >>> import torch
        >>> from nstorm.nets import NeuroSTORMMAE
        >>> from nstorm.workflows import reconstruction_errors
        >>> mae = NeuroSTORMMAE((12, 12, 12, 8), feature_size=8, depths=(1, 1), patch_size=(3, 3, 3, 1))
        >>> errors = reconstruction_errors(mae, [{"image": torch.randn(4, 1, 12, 12, 12, 8)}])
        >>> errors.model.shape
        (4, 8)
    """
    from nstorm.workflows.prepare_clips import prepare_clips

    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    rows: list[Tensor] = []
    for batch in batches:
        image, _, _, inside = prepare_clips(batch, device)
        total = torch.zeros(4, len(image), image.shape[-1], dtype=torch.float64)
        for _ in range(num_masks):
            with eval_mode(net):
                made = net(image, **inside, generator=generator)
            hidden = spread_tokens(made.token_mask[:, None], net.patch_size, image.shape[2:])
            if inside:
                hidden = hidden & over_volumes(inside["brain_mask"])
            filled = (
                in_clip_units(net, made.prediction, image, inside),
                torch.zeros_like(image),
                interpolated(image, hidden),
            )
            errors = [torch.where(hidden, image - value, 0.0).square() for value in filled]
            total += torch.stack([value.double().sum((1, 2, 3, 4)) for value in (*errors, hidden)]).cpu()
        rows.append(total)
    if not rows:
        raise ValueError("batches is empty: there must be at least one clip to reconstruct")
    model, voxel_mean, interpolation, number = torch.cat(rows, 1).numpy()
    return ReconstructionErrors(model, voxel_mean, interpolation, number)


def in_clip_units(net: MaskedAutoencoder, prediction: Tensor, image: Tensor, inside: Mapping[str, Tensor]) -> Tensor:
    """Bring a reconstruction to the units of the clip, where the loss has it in units of its own."""
    convert = getattr(net.loss, "in_target_units", None)
    converted: Tensor = prediction if convert is None else convert(prediction, image, **inside)
    return converted


def interpolated(
    image: Float[Tensor, "b c h w d t"], hidden: Bool[Tensor, "b 1 h w d t"]
) -> Float[Tensor, "b c h w d t"]:
    """Fill hidden frames of every voxel by straight lines between its visible ones, by 0 where none is visible.

    Example:
        >>> import torch
        >>> from nstorm.workflows.reconstruction import interpolated
        >>> series = torch.tensor([9.0, 1.0, 9.0, 9.0, 4.0, 9.0]).view(1, 1, 1, 1, 1, -1)
        >>> interpolated(series, series == 9.0).flatten()
        tensor([1., 1., 2., 3., 4., 4.])
    """
    num_frames = image.shape[-1]
    frames = torch.arange(num_frames, device=image.device).expand(hidden.shape)
    before = torch.where(hidden, -1, frames).cummax(-1).values
    after = torch.where(hidden, num_frames, frames).flip(-1).cummin(-1).values.flip(-1)
    none = (before < 0) & (after == num_frames)
    left = torch.where(before < 0, after, before).clamp(max=num_frames - 1)
    right = torch.where(after == num_frames, before, after).clamp(min=0)
    share = (frames - left) / (right - left).clamp(min=1)
    low, high = (image.gather(-1, index.expand(image.shape)) for index in (left, right))
    return torch.where(none, 0.0, low + (high - low) * share)
