"""The design document's TeacherModel and StudentModel, as `seed_teacher` and `seed_student`.

Three stages of 3x3 convolutions (with bias, without batch norm), each followed by ReLU and each stage by 2x2 max
pooling, then two linear layers on a 4x4 map. The document's code is not at hand; of all layouts of this kind with usual
widths, only one pair agrees with every figure that is known of it: 12,976,266 and 620,362 parameters for ten classes,
56.8 times fewer multiply-adds at 3x32x32, and the hint pair `features.14` / `features.8`, which is where the third
stage of each ends. Teacher: two convolutions of 128, 256 and 512 channels a stage, 1,024 hidden units. Student: one of
32, 64 and 128, 256 hidden units. Dropout has no parameters, so that its rate is our choice.
"""

from itertools import pairwise

from torch import Tensor, nn

from models.traits import Traits

_GRID = 4
"""Side of the map that the classifier reads."""
_DROPOUT = 0.5


class SeedCnn(nn.Module):
    """Images [B, C, H, W] of any size to logits [B, K]. Both networks are instances of it."""

    def __init__(
        self, *, widths: tuple[int, int, int], depth: int, hidden: int, dropout: float, classes: int, channels: int
    ) -> None:
        super().__init__()
        stages = [_stage(before, width, depth=depth) for before, width in pairwise((channels, *widths))]
        self.features = nn.Sequential(*(layer for stage in stages for layer in stage))
        # At 32x32 the map is 4x4 as it is. Other sizes are averaged down, or repeated up, to that grid.
        self.pool = nn.AdaptiveAvgPool2d(_GRID)
        self.classifier = nn.Sequential(
            nn.Linear(widths[-1] * _GRID**2, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def _stage(channels: int, width: int, *, depth: int) -> list[nn.Module]:
    """Convolutions at one resolution and the pooling behind them. ReLU is not in place: a tap sees what it taps."""
    layers: list[nn.Module] = []
    for place in range(depth):
        layers += [nn.Conv2d(channels if place == 0 else width, width, 3, padding=1), nn.ReLU()]
    # Rounding up keeps a 28-pixel image on the 4x4 grid and a one-pixel map alive.
    return [*layers, nn.MaxPool2d(2, ceil_mode=True)]


def names() -> tuple[str, ...]:
    """`seed_teacher` and `seed_student`."""
    return ("seed_teacher", "seed_student")


def traits(name: str) -> Traits:
    """The stages end at the poolings."""
    poolings = (4, 9, 14) if name == "seed_teacher" else (2, 5, 8)
    return Traits("seed_cnn", (3, 32, 32), tuple(f"features.{place}" for place in poolings), small_input=True)


def build(name: str, *, classes: int, image_size: int, channels: int) -> nn.Module:
    """One of the two; `image_size` changes nothing in them."""
    if name == "seed_teacher":
        return SeedCnn(
            widths=(128, 256, 512), depth=2, hidden=1024, dropout=_DROPOUT, classes=classes, channels=channels
        )
    # The small network needs all its units at every step, so it drops none.
    return SeedCnn(widths=(32, 64, 128), depth=1, hidden=256, dropout=0.0, classes=classes, channels=channels)
