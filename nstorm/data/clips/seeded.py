"""A transform whose draws belong to a seed that comes with each item."""

from typing import Any

from monai.transforms.compose import Compose
from monai.transforms.traits import RandomizableTrait
from monai.transforms.transform import Randomizable

from nstorm.data.transforms.time_as_channel import RandomlyInside


class Seeded(RandomlyInside):
    """Call a transform with its source of randomness set anew, and the global ones where it draws from these."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, item: dict[str, Any], seed: int) -> Any:  # type: ignore[override]
        """Transform an item."""
        self.set_random_state(seed)
        return self.call_inside(item)

    @property
    def draws(self) -> bool:
        """Whether the transform is one of those that draw; of functions that is not known."""
        return _draws(self.transform)


def _draws(transform: Any) -> bool:
    # a Compose is Randomizable whatever it holds
    if isinstance(transform, Compose):
        return any(map(_draws, transform.transforms))
    return isinstance(transform, Randomizable | RandomizableTrait)
