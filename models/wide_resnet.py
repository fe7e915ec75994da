"""Wide residual networks for small images (Zagoruyko 2016): `wrn<depth>-<width factor>`, with pre-activation."""

from torch import Tensor, nn
from torch.nn import functional

NAMES = ("wrn16-1", "wrn16-2", "wrn40-1", "wrn40-2")
SMALLEST = 4


class Block(nn.Module):
    """Pre-activated residual block: [B, C_in, H, W] to [B, C_out, H/stride, W/stride]."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = None if channels == width else nn.Conv2d(channels, width, 1, stride=stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """The sum of shortcut and residual; where the width changes, both start after the first ReLU."""
        active = functional.relu(self.bn1(inputs))
        residual = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        kept = inputs if self.shortcut is None else self.shortcut(active)
        total: Tensor = kept + residual
        return total


class WideResNet(nn.Module):
    """Images [B, C, H, W] to logits [B, classes]."""

    def __init__(self, *, depth: int, factor: int, classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = (16 * factor, 32 * factor, 64 * factor)
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = _stage(16, widths[0], blocks=blocks, stride=1)
        self.block2 = _stage(widths[0], widths[1], blocks=blocks, stride=2)
        self.block3 = _stage(widths[1], widths[2], blocks=blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        features = functional.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(images))))))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


def _stage(channels: int, width: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = Block(channels, width, stride=stride)
    return nn.Sequential(first, *(Block(width, width, stride=1) for _ in range(blocks - 1)))


def build(name: str, *, classes: int, image_size: int, channels: int) -> nn.Module:
    """One of `NAMES`."""
    depth, _, factor = name.removeprefix("wrn").partition("-")
    return WideResNet(depth=int(depth), factor=int(factor), classes=classes, channels=channels)


def native_input(name: str) -> tuple[int, int, int]:
    """Channels, height, width."""
    return (3, 32, 32)


def stages(name: str) -> tuple[str, ...]:
    """The three groups of blocks."""
    return ("block1", "block2", "block3")
