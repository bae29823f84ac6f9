"""A transform whose draws belong to a seed that comes with each item."""

from typing import Any

from nstorm.data.transforms.time_as_channel import RandomlyInside


class Seeded(RandomlyInside):
    """Call a transform with its source of randomness set anew, and torch's where it draws from that."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, item: dict[str, Any], seed: int) -> Any:  # type: ignore[override]
        """Transform an item."""
        self.set_random_state(seed)
        return self.call_inside(item)
