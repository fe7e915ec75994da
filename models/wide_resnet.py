"""Wide residual networks for small images: `wrn40-2` has 40 layers and twice the channels of a thin network.

Zagoruyko and Komodakis, Wide Residual Networks, 2016 (arXiv:1605.07146), without dropout. Layers are named as in the
code of the distillation literature, HobbitLong/RepDistiller.
"""

from torch import Tensor, nn
from torch.nn import functional

from models.traits import Traits

_NAMES = ("wrn16-1", "wrn16-2", "wrn40-1", "wrn40-2")
_STAGES = ("block1", "block2", "block3")


class PreactivatedBlock(nn.Module):
    """Norm and ReLU come before each convolution: [B, C, H, W] to [B, width, H/stride, W/stride]."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        projects = channels != width
        self.convShortcut = nn.Conv2d(channels, width, 1, stride=stride, bias=False) if projects else None

    def forward(self, maps: Tensor) -> Tensor:
        """The sum of residual and shortcut, not rectified. A projecting shortcut starts behind the first ReLU."""
        active = functional.relu(self.bn1(maps))
        residual = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        shortcut: Tensor = maps if self.convShortcut is None else self.convShortcut(active)
        passed: Tensor = shortcut + residual
        return passed


class Stage(nn.Module):
    """The blocks of one resolution."""

    def __init__(self, channels: int, width: int, *, blocks: int, stride: int) -> None:
        super().__init__()
        first = PreactivatedBlock(channels, width, stride=stride)
        self.layer = nn.Sequential(first, *(PreactivatedBlock(width, width, stride=1) for _ in range(blocks - 1)))

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, H, W] to [B, width, H/stride, W/stride]."""
        passed: Tensor = self.layer(maps)
        return passed


class WideResNet(nn.Module):
    """Images [B, C, H, W] of any size to logits [B, K]."""

    def __init__(self, *, depth: int, factor: int, classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = Stage(16, 16 * factor, blocks=blocks, stride=1)
        self.block2 = Stage(16 * factor, 32 * factor, blocks=blocks, stride=2)
        self.block3 = Stage(32 * factor, 64 * factor, blocks=blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * factor)
        self.fc = nn.Linear(64 * factor, classes)
        nn.init.zeros_(self.fc.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        maps = self.block3(self.block2(self.block1(self.conv1(images))))
        logits: Tensor = self.fc(functional.relu(self.bn1(maps)).mean((2, 3)))
        return logits


def names() -> tuple[str, ...]:
    """`wrn<depth>-<width factor>`."""
    return _NAMES


def traits(name: str) -> Traits:
    """All have three stages."""
    return Traits("wide_resnet", (3, 32, 32), _STAGES, small_input=True)


def build(name: str, *, classes: int, image_size: int, channels: int) -> nn.Module:
    """One of `names()`; `image_size` changes nothing in it."""
    depth, _, factor = name.removeprefix("wrn").partition("-")
    return WideResNet(depth=int(depth), factor=int(factor), classes=classes, channels=channels)
