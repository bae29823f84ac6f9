"""Noise that looks like the recording's own."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class WithinClassNoise:
    """Prepare a batch for MONAI's trainer, with gaussian noise of the within-class covariance added to every frame.

    fMRI noise is strongly correlated between voxels. Noise drawn from the covariance of what remains of the training
    frames when the mean of their class is taken off teaches the network which directions not to trust, as the
    covariance of linear discriminant analysis does. It is drawn as random mixtures of those residual frames, so that
    no covariance matrix of voxels is ever formed.

    Args:
        images: training clips (N, 1, H, W, D, T).
        labels: their classes (N,).
        scale: standard deviation of the noise, in units of the residuals'.
        generator: source of the mixtures.

    References:
        Bishop, "Training with noise is equivalent to Tikhonov regularization", Neural Computation 7:108 (1995).

    Example:
        >>> import torch
        >>> from nstorm.workflows import WithinClassNoise
        >>> clips, labels = torch.randn(6, 1, 8, 8, 4, 9), torch.tensor([0, 0, 0, 1, 1, 1])
        >>> noise = WithinClassNoise(clips, labels, scale=2.0, generator=torch.Generator().manual_seed(0))
        >>> image, label = noise({"image": clips[:2], "label": labels[:2]}, "cpu")
        >>> image.shape
        torch.Size([2, 1, 8, 8, 4, 9])
    """

    def __init__(
        self,
        images: Float[Tensor, "n 1 h w d t"],
        labels: Int64[Tensor, " n"],
        scale: float,
        generator: torch.Generator,
    ) -> None:
        means = torch.zeros(int(labels.max()) + 1, *images.shape[1:5])
        for label in labels.unique():
            means[label] = images[labels == label].mean((0, -1))
        residuals = (images - means[labels][..., None]).movedim(-1, 1)
        self.residuals = residuals.flatten(0, 1).flatten(1)  # (frames, voxels)
        self.scale = scale / len(self.residuals) ** 0.5
        self.generator = generator

    def __call__(
        self,
        batchdata: dict[str, Tensor],
        device: torch.device | str | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return (image, label) with fresh noise; the batch itself is left as it is."""
        image, label = batchdata["image"], batchdata["label"]
        num_frames = image.shape[0] * image.shape[-1]
        mixture = torch.randn(num_frames, len(self.residuals), generator=self.generator)
        noise = (mixture @ self.residuals).view(image.shape[0], image.shape[-1], *image.shape[1:5]).movedim(1, -1)
        return (image + self.scale * noise).to(device, non_blocking=non_blocking), label.to(device)
