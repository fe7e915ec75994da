"""The two networks of the design document: three stages of 3x3 convolutions, and a head of two linear layers.

The teacher has two convolutions to a stage, of 128, 256 and 512 channels, and 1,024 hidden units; the student one, of
32, 64 and 128 channels, and 256 units. There is no batch normalisation. At 3x32x32 and ten classes this gives the
12,976,266 and 620,362 parameters and the 56.8-fold multiply-adds that are on record for them.
"""

from torch import Tensor, nn

_HEAD_SIDE = 4
NAMES = ("seed_teacher", "seed_student")
SMALLEST = 8
"""Three poolings halve the side; below 8 pixels nothing would be left."""


class SeedCnn(nn.Module):
    """Images [B, C, H, W] to logits [B, classes], for any side of at least 8 pixels."""

    def __init__(
        self, *, widths: tuple[int, ...], depth: int, hidden: int, dropout: float, classes: int, channels: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        # Gives the head its 4x4 whatever the size of the image; at 32x32 it changes nothing.
        self.pool = nn.AdaptiveAvgPool2d(_HEAD_SIDE)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * _HEAD_SIDE**2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        logits: Tensor = self.classifier(self.pool(self.features(images)))
        return logits


def build(name: str, *, classes: int, image_size: int, channels: int) -> nn.Module:
    """`seed_teacher` or `seed_student`."""
    if name == "seed_teacher":
        return SeedCnn(widths=(128, 256, 512), depth=2, hidden=1024, dropout=0.5, classes=classes, channels=channels)
    return SeedCnn(widths=(32, 64, 128), depth=1, hidden=256, dropout=0.3, classes=classes, channels=channels)


def native_input(name: str) -> tuple[int, int, int]:
    """Channels, height, width."""
    return (3, 32, 32)


def stages(name: str) -> tuple[str, ...]:
    """The poolings that end the stages."""
    return ("features.4", "features.9", "features.14") if name == "seed_teacher" else (
        "features.2", "features.5", "features.8",
    )  # fmt: skip
