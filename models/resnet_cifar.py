"""Residual networks for small images (He 2015, section 4.2), thin and wide.

`resnet20` and its like have 16, 32 and 64 channels and shortcuts without parameters (the paper's option A): identity,
or every second pixel padded with zero channels. `resnet8x4` and `resnet32x4` are those of the distillation
literature: 32, 64, 128 and 256 channels, shortcuts by 1x1 convolution (option B).
"""

from torch import Tensor, nn
from torch.nn import functional

THIN = (8, 14, 20, 32, 44, 56, 110)
WIDE = (8, 32)
NAMES = (*(f"resnet{depth}" for depth in THIN), *(f"resnet{depth}x4" for depth in WIDE))
SMALLEST = 4
_WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: [B, C_in, H, W] to [B, C_out, H/stride, W/stride]."""

    def __init__(self, channels: int, width: int, *, stride: int, projects: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.added = width - channels
        changes = stride != 1 or width != channels
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
            if projects and changes
            else None
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """The block's output after its last ReLU."""
        outputs = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(inputs)))))
        return functional.relu(outputs + self._shortcut(inputs))

    def _shortcut(self, inputs: Tensor) -> Tensor:
        if self.downsample is not None:
            projected: Tensor = self.downsample(inputs)
            return projected
        if self.stride == 1 and self.added == 0:
            return inputs
        half = self.added // 2
        return functional.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half))


class CifarResNet(nn.Module):
    """Images [B, C, H, W] to logits [B, classes]."""

    def __init__(
        self, *, blocks: int, stem: int, widths: tuple[int, int, int], projects: bool, classes: int, channels: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, widths[0], blocks=blocks, stride=1, projects=projects)
        self.layer2 = _stage(widths[0], widths[1], blocks=blocks, stride=2, projects=projects)
        self.layer3 = _stage(widths[1], widths[2], blocks=blocks, stride=2, projects=projects)
        self.linear = nn.Linear(widths[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes]."""
        features = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(images))))))
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


def _stage(channels: int, width: int, *, blocks: int, stride: int, projects: bool) -> nn.Sequential:
    first = Block(channels, width, stride=stride, projects=projects)
    return nn.Sequential(first, *(Block(width, width, stride=1, projects=projects) for _ in range(blocks - 1)))


def build(name: str, *, classes: int, image_size: int, channels: int) -> nn.Module:
    """One of `NAMES`."""
    depth, _, factor = name.removeprefix("resnet").partition("x")
    blocks = (int(depth) - 2) // 6
    if not factor:
        return CifarResNet(blocks=blocks, stem=16, widths=_WIDTHS, projects=False, classes=classes, channels=channels)
    return CifarResNet(blocks=blocks, stem=32, widths=(64, 128, 256), projects=True, classes=classes, channels=channels)


def native_input(name: str) -> tuple[int, int, int]:
    """Channels, height, width."""
    return (3, 32, 32)


def stages(name: str) -> tuple[str, ...]:
    """The three groups of blocks."""
    return ("layer1", "layer2", "layer3")
