"""Residual networks for small images, thin (`resnet20`) and four times as wide (`resnet8x4`).

The thin ones are those of He et al., Deep Residual Learning, 2016, section 4.2 (arXiv:1512.03385): 16, 32 and 64
channels, and shortcuts without parameters (option A). Their layers are named as in akamaster/pytorch_resnet_cifar10,
whose weights they load. The wide ones are those of the distillation literature, named as in HobbitLong/RepDistiller:
32, then 64, 128 and 256 channels, and 1x1 convolutions as shortcuts (option B).
"""

from torch import Tensor, nn
from torch.nn import functional

from models.traits import Traits

_THIN_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
_WIDE_DEPTHS = (8, 32)
_STAGES = ("layer1", "layer2", "layer3")


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: [B, C, H, W] to [B, width, H/stride, W/stride]."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        """The sum of residual and shortcut, rectified."""
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps)))))
        return functional.relu(residual + self.shortcut(maps))

    def shortcut(self, maps: Tensor) -> Tensor:
        """Option A: every second pixel where the block halves the map, and zeros for the channels that are new."""
        new = self.conv1.out_channels - self.conv1.in_channels
        if not new:
            return maps
        return functional.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, new // 2, new - new // 2))


class ProjectedBlock(Block):
    """The same with option B: where the shape changes, the shortcut is a 1x1 convolution with batch norm."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__(channels, width, stride=stride)
        self.downsample = nn.Sequential()
        if stride != 1 or channels != width:
            projection = nn.Conv2d(channels, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(width))

    def shortcut(self, maps: Tensor) -> Tensor:
        """The maps themselves where their shape is kept."""
        projected: Tensor = self.downsample(maps)
        return projected


class Trunk(nn.Module):
    """Everything up to the mean over the last map: images [B, C, H, W] to features [B, widths[-1]]."""

    def __init__(self, block: type[Block], *, blocks: int, widths: tuple[int, int, int, int], channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(block, widths[0], widths[1], blocks=blocks, stride=1)
        self.layer2 = _stage(block, widths[1], widths[2], blocks=blocks, stride=2)
        self.layer3 = _stage(block, widths[2], widths[3], blocks=blocks, stride=2)

    def embed(self, images: Tensor) -> Tensor:
        """Mean of the last map over its pixels."""
        maps: Tensor = functional.relu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3):
            maps = stage(maps)
        return maps.mean((2, 3))


class ThinResNet(Trunk):
    """Images [B, C, H, W] of any size to logits [B, K]; its classifier is called `linear`."""

    def __init__(self, *, depth: int, classes: int, channels: int) -> None:
        super().__init__(Block, blocks=(depth - 2) // 6, widths=(16, 16, 32, 64), channels=channels)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        logits: Tensor = self.linear(self.embed(images))
        return logits


class WideStageResNet(Trunk):
    """Images [B, C, H, W] of any size to logits [B, K]; its classifier is called `fc`."""

    def __init__(self, *, depth: int, classes: int, channels: int) -> None:
        super().__init__(ProjectedBlock, blocks=(depth - 2) // 6, widths=(32, 64, 128, 256), channels=channels)
        self.fc = nn.Linear(256, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of images [B, C, H, W]."""
        logits: Tensor = self.fc(self.embed(images))
        return logits


def _stage(block: type[Block], channels: int, width: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = block(channels, width, stride=stride)
    return nn.Sequential(first, *(block(width, width, stride=1) for _ in range(blocks - 1)))


def names() -> tuple[str, ...]:
    """`resnet<depth>`, and `resnet<depth>x4` for the wide ones."""
    return (*(f"resnet{depth}" for depth in _THIN_DEPTHS), *(f"resnet{depth}x4" for depth in _WIDE_DEPTHS))


def traits(name: str) -> Traits:
    """All have three stages."""
    return Traits("resnet_cifar", (3, 32, 32), _STAGES, small_input=True)


def build(name: str, *, classes: int, image_size: int, channels: int) -> nn.Module:
    """One of `names()`; `image_size` changes nothing in it."""
    depth, _, factor = name.removeprefix("resnet").partition("x")
    network = WideStageResNet if factor else ThinResNet
    return network(depth=int(depth), classes=classes, channels=channels)
