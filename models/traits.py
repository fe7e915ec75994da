"""What a family of networks tells about each of its members, apart from the figures that are counted."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """Facts about one network that its file knows and the catalogue repeats."""

    family: str
    input: tuple[int, int, int]
    """Native input as channels, height, width."""
    stages: tuple[str, ...]
    """Module paths of the last layer of each stage, shallow to deep."""
    small_input: bool
    """Made for images of 64 pixels and less, or adapted to them."""
