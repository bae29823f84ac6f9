"""The error of what a masked autoencoder puts in the place of hidden patches."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.modules.loss import _Loss

from nstorm.losses.patches import over_volumes, patch_grid, patch_sums, spread_tokens

_ERRORS = ("mse", "l1", "huber")
_REDUCTIONS = ("mean", "sum", "none")


class MaskedReconstructionLoss(_Loss):
    """Mean error over the voxels of hidden patches, within the brain if a mask is given.

    The sum of the errors is divided by the number of voxels that count, so that the loss does not grow with the share
    of hidden tokens. (`monai.losses.MaskedLoss` divides by the number of all voxels.)

    Computed in float32 or wider: in float16 the sum over the voxels of a clip would overflow.

    Args:
        patch_size: voxels of a token along h, w, d and frames along t.
        error: `"mse"` (published), `"l1"`, or `"huber"`: half the squared error below `delta`, linear above.
        normalize_patches: bring the target's values of each patch to mean 0 and standard deviation 1, over the voxels
            that count. What is left is the pattern within a patch; its level, which neighbours tell, is taken out.
            A reconstruction is in these units then; `in_target_units` brings it back.
        delta: of the Huber loss, in the units of the target.
        reduction: `"mean"`, `"sum"`, or `"none"` for the error at each voxel, 0 where it does not count.

    Raises:
        ValueError: if an option is unknown; in `forward`, if shapes do not fit or nothing counts.

    References:
        Xie et al., "SimMIM", arXiv:2111.09886; He et al., "Masked autoencoders are scalable vision learners"
        (normalised patches), arXiv:2111.06377.

    Example:
        >>> import torch
        >>> from nstorm.losses import MaskedReconstructionLoss
        >>> loss = MaskedReconstructionLoss(patch_size=(6, 6, 6, 1), error="huber")
        >>> volume, hidden = torch.randn(2, 1, 24, 18, 24, 5), torch.rand(2, 4, 3, 4, 5) < 0.5
        >>> loss(volume + 1.0, volume, hidden)
        tensor(0.5000)
    """

    def __init__(
        self,
        patch_size: Sequence[int] = (6, 6, 6, 1),
        error: str = "mse",
        normalize_patches: bool = False,
        delta: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        # MONAI's LossReduction is a string with this value
        reduction = str(getattr(reduction, "value", reduction))
        super().__init__(reduction=reduction)
        if len(patch_size) != 4 or min(patch_size) < 1:
            raise ValueError(f"patch_size {tuple(patch_size)} must have four positive entries: h, w, d, t")
        if error not in _ERRORS:
            raise ValueError(f"error {error!r} is unknown; choose one of {list(_ERRORS)}")
        if reduction not in _REDUCTIONS:
            raise ValueError(f"reduction {reduction!r} is unknown; choose one of {list(_REDUCTIONS)}")
        if delta <= 0:
            raise ValueError(f"delta is {delta}, but it has to be above 0")
        self.patch_size, self.error = tuple(patch_size), error
        self.normalize_patches, self.delta = normalize_patches, delta

    def forward(
        self,
        input: Float[Tensor, "b c h w d t"],
        target: Float[Tensor, "b c h w d t"],
        token_mask: Bool[Tensor, "b gh gw gd gt"],
        brain_mask: Bool[Tensor, "*b h w d"] | None = None,
    ) -> Float[Tensor, "..."]:
        """Compare a reconstruction with the clip.

        Args:
            input: reconstruction (B, C, H, W, D, T).
            target: the clip, of the same shape.
            token_mask: (B, H', W', D', T') True for hidden tokens.
            brain_mask: (H, W, D) or (B, H, W, D), False for voxels that do not count.
        """
        self._check(input, target, brain_mask)
        counts = self._counts(target, token_mask, brain_mask)
        wide = torch.promote_types(target.dtype, torch.float32)
        input, target = input.to(wide), target.to(wide)
        if self.normalize_patches:
            mean, std = self._mean_and_std(target, brain_mask)
            target = (target - mean) / std
        # a voxel that does not count may hold anything, NaN too
        difference = torch.where(counts, input - target, 0.0)
        if self.error == "mse":
            errors = difference.square()
        elif self.error == "l1":
            errors = difference.abs()
        else:
            errors = F.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=self.delta)
        if self.reduction == "none":
            return errors
        if self.reduction == "sum":
            return errors.sum()
        return errors.sum() / (counts.sum() * input.shape[1]).clamp(min=1)

    def in_target_units(
        self,
        input: Float[Tensor, "b c h w d t"],
        target: Float[Tensor, "b c h w d t"],
        brain_mask: Bool[Tensor, "*b h w d"] | None = None,
    ) -> Float[Tensor, "b c h w d t"]:
        """Give a reconstruction the mean and deviation of the target's patches, where it was learned without them."""
        if not self.normalize_patches:
            return input
        mean, std = self._mean_and_std(target, brain_mask)
        return input * std + mean

    def _check(self, input: Tensor, target: Tensor, brain_mask: Tensor | None) -> None:
        """Refuse what would be broadcast."""
        if input.shape != target.shape:
            raise ValueError(
                f"input has shape {tuple(input.shape)}, but the target has {tuple(target.shape)}: the reconstruction "
                "has to be of the clip's channels and size"
            )
        num_samples, _, *space, _ = target.shape
        if brain_mask is not None and list(brain_mask.shape) not in (space, [1, *space], [num_samples, *space]):
            raise ValueError(
                f"brain_mask has shape {tuple(brain_mask.shape)}, expected {tuple(space)} or {(num_samples, *space)}"
            )

    def _counts(self, target: Tensor, token_mask: Tensor, brain_mask: Tensor | None) -> Bool[Tensor, "b 1 h w d t"]:
        size = target.shape[2:]
        grid = patch_grid(size, self.patch_size)
        if tuple(token_mask.shape) != (len(target), *grid):
            raise ValueError(
                f"token_mask has shape {tuple(token_mask.shape)}, expected {(len(target), *grid)} for a target of "
                f"{tuple(target.shape)} and patches of {self.patch_size}"
            )
        counts = spread_tokens(token_mask[:, None], self.patch_size, size)
        if brain_mask is not None:
            counts = counts & over_volumes(brain_mask).to(counts.device)
        # on a GPU, to look would be to wait, and in a graph there is nothing to look at
        if counts.device.type == "cpu" and not torch.compiler.is_compiling() and not counts.any():
            raise ValueError("token_mask hides no voxel that counts: at least one token in the brain must be True")
        return counts

    def _mean_and_std(self, target: Tensor, brain_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of each patch, over its voxels in the brain, at every voxel."""
        size, patch = target.shape[2:], self.patch_size
        if brain_mask is None:
            inside = torch.ones_like(target[:1, :1], dtype=torch.bool)
        else:
            inside = over_volumes(brain_mask).to(target.device).expand(-1, -1, *size)
        number = patch_sums(inside.to(target.dtype), patch).clamp(min=1)
        mean = spread_tokens(patch_sums(torch.where(inside, target, 0.0), patch) / number, patch, size)
        centred = torch.where(inside, target - mean, 0.0)
        variance = patch_sums(centred.square(), patch) / number
        return mean, spread_tokens((variance + 1e-6).sqrt(), patch, size)
