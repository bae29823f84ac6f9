"""What became of a file of weights."""

from dataclasses import dataclass, field
from typing import Any

from nstorm.nets.weights.wording import listed, tensors


@dataclass(frozen=True)
class LoadingReport:
    """What `load_pretrained` did with a file; `print(report)` says it in a few lines.

    Attributes:
        source: where the file came from.
        sha256: of the file.
        layout: how the file is laid out, in words.
        part: what was taken from it.
        loaded: names in the net of all tensors that have the file's values, resized ones too.
        num_values: how many numbers that are.
        reshaped: position embeddings that were brought to another grid: shape in the file, shape in the net.
        left_out: what the file has besides, under its names there, by what it is.
        new: names in the net of tensors that keep the values they had.
        zeroed: names in the net of tensors that are not in the file, and 0 because the net's mask does not use them.
        hyper_parameters: as the file gives them: of the training of a Lightning file, else arguments of the net.
        perhaps_untrained: name in the net of a mask token it uses, where the file does not say which one it trained.
        inferred: published arguments that the file does not give and its weights tell.
    """

    source: str
    sha256: str
    layout: str
    part: str
    loaded: tuple[str, ...]
    num_values: int
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()
    perhaps_untrained: tuple[str, ...] = ()
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    inferred: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.part} from {self.source}",
            f"layout: {self.layout}",
            f"sha256: {self.sha256}",
            f"loaded: {tensors(len(self.loaded))}, {self.num_values:,} values",
        ]
        if self.reshaped:
            shapes = [f"{name} {was} -> {now}" for name, (was, now) in self.reshaped.items()]
            lines.append(f"brought to another grid: {listed(shapes)}")
        if self.left_out:
            groups = [_group(what, names) for what, names in self.left_out.items()]
            lines.append(f"left out of the file: {'; '.join(groups)}")
        if self.new:
            lines.append(f"new, as the net had it: {listed(self.new)}")
        if self.zeroed:
            lines.append(f"not in the file, not used by this mask, set to 0: {listed(self.zeroed)}")
        if self.perhaps_untrained:
            names = listed(self.perhaps_untrained)
            lines.append(f"perhaps at random values, as the file does not say which mask token it trained: {names}")
        if self.inferred:
            lines.append(f"arguments that the weights tell: {listed(self.inferred)}")
        return "\n".join(lines)


def _group(what: str, names: tuple[str, ...]) -> str:
    return f"{what} ({listed(names)})" if len(names) <= 3 else f"{what} ({tensors(len(names))})"
