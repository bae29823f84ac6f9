"""From a batch of clips to what a network takes, for MONAI's engines."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def prepare_clips(
    batchdata: Mapping[str, Any],
    device: torch.device | str | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor, tuple[()], dict[str, Tensor]]:
    """Prepare a batch of `nstorm.data.ClipDataset` for a network that reconstructs it: MONAI's `prepare_batch`.

    Everything is a plain tensor on the device. Clips of `output="brain"` go there as they are, and become dense there.

    Args:
        batchdata: `image` (B, 1, H, W, D, T), and `mask` (B, 1, H, W, D) if there is one; or `image` (B, T, V) with
            `places`, `shape` and `background`.
        device: where to.
        non_blocking: copy pinned memory while the host goes on.
        kwargs: of `Tensor.to`, for the image only, such as its `dtype`.

    Returns:
        The image (B, 1, H, W, D, T), itself again as the target, nothing, and `{"brain_mask": mask}` for the network's
        call, Bool (B, H, W, D), or (H, W, D) where all clips have the same mask, with which networks are faster;
        nothing where there is no mask.

    Example:
        >>> import torch
        >>> from nstorm.workflows import prepare_clips
        >>> batch = {"image": torch.randn(2, 1, 8, 6, 4, 5), "mask": torch.ones(2, 1, 8, 6, 4, dtype=torch.bool)}
        >>> image, target, _, options = prepare_clips(batch, "cpu")
        >>> image.shape, target is image, options["brain_mask"].shape
        (torch.Size([2, 1, 8, 6, 4, 5]), True, torch.Size([8, 6, 4]))
    """

    def there(values: Tensor, **options: Any) -> Tensor:
        # MetaTensors of MONAI would take a detour at every operation of the network
        return values.as_subclass(Tensor).to(device, non_blocking=non_blocking, **options)

    image, mask = batchdata["image"], batchdata.get("mask")
    if "places" in batchdata:
        from nstorm.data import to_dense

        # compared before they are sent: a GPU would have to be waited for
        places = _one_if_same(batchdata["places"])
        on_device = there(places)
        image = there(image, **kwargs)
        everywhere = torch.ones(len(places), 1, places.shape[1], device=image.device)
        inside = to_dense(everywhere, on_device, batchdata["shape"])[:, 0, ..., 0].bool()
        image = to_dense(
            image, on_device.expand(len(image), -1), batchdata["shape"], there(torch.as_tensor(batchdata["background"]))
        )
        mask = inside[0] if len(places) < len(image) or len(image) == 1 else inside
        return image, image, (), {"brain_mask": mask}
    image = there(image, **kwargs)
    if mask is None:
        return image, image, (), {}
    mask = _one_if_same(mask.as_subclass(Tensor)[:, 0])
    return image, image, (), {"brain_mask": there(mask[0] if len(mask) == 1 else mask).bool()}


def _one_if_same(values: Tensor) -> Tensor:
    return values[:1] if bool((values == values[:1]).all()) else values
