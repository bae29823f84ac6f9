"""Pictures of one clip as a masked autoencoder reconstructs it, to watch it learn."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nstorm.losses import spread_tokens
from nstorm.nets import MaskedAutoencoder
from nstorm.plots import plot_reconstruction
from nstorm.workflows.eval_mode import eval_mode
from nstorm.workflows.prepare_clips import prepare_clips
from nstorm.workflows.reconstruction import in_clip_units


class ReconstructionPictures:
    """Draw how a clip is reconstructed, always with the same tokens hidden: a function for `pretrainer`'s `pictures`.

    Args:
        clip: an item of a `ClipDataset` with dense output, best one that the network does not learn from: `image`
            (1, H, W, D, T), and `mask` (1, H, W, D) if there is a brain mask.
        seed: of the mask.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from nstorm.nets import NeuroSTORMMAE
        >>> from nstorm.workflows import ReconstructionPictures
        >>> mae = NeuroSTORMMAE((12, 12, 12, 8), feature_size=8, depths=(1, 1), patch_size=(3, 3, 3, 1))
        >>> draw = ReconstructionPictures({"image": torch.randn(1, 12, 12, 12, 8)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw(mae, 3, Path(folder)).name
        'reconstruction_0003.png'
    """

    def __init__(self, clip: Mapping[str, Any], seed: int = 0) -> None:
        self.batch = {name: clip[name][None] for name in ("image", "mask") if name in clip}
        self.seed = seed

    def __call__(self, net: MaskedAutoencoder, epoch: int, folder: Path) -> Path:
        """Write the picture of an epoch into the folder."""
        image, _, _, inside = prepare_clips(self.batch, next(net.parameters()).device)
        with torch.no_grad(), eval_mode(net):
            made = net(image, **inside, generator=torch.Generator().manual_seed(self.seed))
        hidden = spread_tokens(made.token_mask[:, None], net.patch_size, image.shape[2:])
        brain = inside.get("brain_mask", torch.ones(image.shape[2:5], dtype=torch.bool))
        clip, prediction, hidden = (
            values[0, 0].cpu() for values in (image, in_clip_units(net, made.prediction, image, inside), hidden)
        )
        figure = plot_reconstruction(clip, prediction, hidden, brain.cpu().reshape(clip.shape[:3]))
        figure.suptitle(f"after epoch {epoch}: loss {made.loss.item():.2f}")
        path = folder / f"reconstruction_{epoch:04d}.png"
        figure.savefig(path, dpi=110)
        return path
