"""A masked autoencoder of a few numbers, and clips for it."""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

SIZE = (5, 4, 3, 6)


class Output(NamedTuple):
    loss: torch.Tensor
    prediction: torch.Tensor
    token_mask: torch.Tensor


class TinyAutoencoder(nn.Module):
    """Hides half of the voxels, by its generator, and half of what it knows of the others, by torch's global one."""

    def __init__(self, num_frames=SIZE[3], dropout=0.5, masked=True):
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(num_frames, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, num_frames))
        self.unused = nn.Parameter(torch.zeros(3))
        self.masked = masked

    def forward(self, x, brain_mask=None, token_mask=None, generator=None):
        hidden = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        if self.masked:
            hidden = torch.rand(x.shape, generator=generator, device=x.device) < 0.5
        if brain_mask is not None:
            hidden = hidden & brain_mask.reshape(-1, 1, *x.shape[2:5], 1)
        prediction = self.mix(torch.where(hidden, 0.0, x) if self.masked else x)
        # not a linear function of the image, so that the network has something to learn
        error = (prediction - x.tanh()).square()
        return Output((error * hidden).sum() / hidden.sum(), prediction, hidden)


class NoisyClips(Dataset):
    """Clips that are disturbed anew each time, by torch's global generator."""

    def __init__(self, number=7, noise=0.1, size=SIZE):
        generator = torch.Generator().manual_seed(7)
        self.clips = torch.randn(number, 1, *size, generator=generator)
        self.noise = noise

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        clip = self.clips[index]
        noise = self.noise * torch.randn(clip.shape) if self.noise else 0.0
        return {"image": clip + noise, "subject": f"{index:02}", "run": f"{index % 2}"}
