"""Every classification network of torchvision, as `torchvision/<name>`, fitted to the classes, channels and image size.

Images of at most 64 pixels get a stem that keeps their resolution: the ImageNet stem would shrink a 32x32 image to 8x8
before the first block, which costs about five points of accuracy. Weights are never downloaded here.
"""

from typing import Any

from torch import Tensor, nn
from torchvision import models as zoo
from torchvision.models import VisionTransformer

from distillery.errors import InvalidRequest

PREFIX = "torchvision/"
SMALL_IMAGE = 64
_TRUNKS = ("features", "trunk_output", "blocks")
_NATIVE_SIDE = {"inception_v3": 299, "vit_h_14": 518}
FIXED_WINDOWS = (f"{PREFIX}maxvit_t",)
"""Their attention windows must divide the image, as 224 pixels do."""
_VIT_CELLS = 8
"""A transformer reads a small image as at least 8x8 patches."""
_STRIDED_STEMS = ("mobilenet", "efficientnet", "mnasnet", "regnet", "shufflenet", "densenet", "googlenet", "squeezenet")


def names() -> tuple[str, ...]:
    """All names, with their prefix."""
    return tuple(PREFIX + name for name in sorted(zoo.list_models(module=zoo)))


def build(name: str, *, classes: int, image_size: int, channels: int) -> nn.Module:
    """A network of torchvision with fresh weights.

    Raises:
        InvalidRequest: the network has no form for images of this size.
    """
    short = name.removeprefix(PREFIX)
    if short.startswith("vit_"):
        network: nn.Module = _vision_transformer(short, classes=classes, image_size=image_size)
    else:
        network = zoo.get_model(short, weights=None, num_classes=classes, **_own_options(short, image_size=image_size))
    if image_size <= SMALL_IMAGE:
        _keep_resolution(network, name=short)
    if channels != 3:
        _read_channels(network, channels=channels)
    return network


def native_input(name: str) -> tuple[int, int, int]:
    """Channels, height, width that the published weights expect."""
    side = _NATIVE_SIDE.get(name.removeprefix(PREFIX), 224)
    return (3, side, side)


def _own_options(name: str, *, image_size: int) -> dict[str, Any]:
    if name in ("googlenet", "inception_v3"):
        # Their extra heads answer only in training; a network here has one answer.
        return {"aux_logits": False, "init_weights": False}
    if PREFIX + name in FIXED_WINDOWS:
        return {"input_size": (image_size, image_size)}
    return {}


def _vision_transformer(name: str, *, classes: int, image_size: int) -> Any:
    """torchvision fixes the patch by the name; here it shrinks with the image, so that there is enough to attend to."""
    sizes = _VIT_SIZES[name.rpartition("_")[0]]
    patch = int(name.rpartition("_")[2])
    if image_size <= SMALL_IMAGE or image_size % patch:
        patch = _small_patch(image_size, name=name)
    return VisionTransformer(image_size=image_size, patch_size=patch, num_classes=classes, **sizes)


_VIT_SIZES: dict[str, dict[str, int]] = {
    "vit_b": {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072},
    "vit_l": {"num_layers": 24, "num_heads": 16, "hidden_dim": 1024, "mlp_dim": 4096},
    "vit_h": {"num_layers": 32, "num_heads": 16, "hidden_dim": 1280, "mlp_dim": 5120},
}


def _small_patch(image_size: int, *, name: str) -> int:
    fitting = [
        patch for patch in range(1, image_size + 1) if image_size % patch == 0 and image_size // patch >= _VIT_CELLS
    ]
    if not fitting:
        raise InvalidRequest(
            f"{PREFIX}{name} needs {_VIT_CELLS}x{_VIT_CELLS} equal patches or more; {image_size} pixels give none.",
            hint="Set dataset.image_size to 32, 64 or 224.",
            pointer="/dataset/image_size",
        )
    return fitting[-1]


def _keep_resolution(network: Any, *, name: str) -> None:
    """Take the first halvings out of the stem."""
    if isinstance(network, zoo.ResNet):
        old = network.conv1
        network.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    elif name.startswith(_STRIDED_STEMS):
        _first_convolution(network)[2].stride = (1, 1)
        for owner, attribute in (
            (network, "maxpool"),
            (network, "maxpool1"),
            (getattr(network, "features", None), "pool0"),
        ):
            if isinstance(getattr(owner, attribute, None), nn.MaxPool2d):
                setattr(owner, attribute, nn.Identity())
    elif name.startswith("convnext"):
        owner, attribute, old = _first_convolution(network)
        setattr(owner, attribute, nn.Conv2d(old.in_channels, old.out_channels, 2, stride=2))


def _read_channels(network: nn.Module, *, channels: int) -> None:
    owner, attribute, old = _first_convolution(network)
    shape: dict[str, Any] = {"kernel_size": old.kernel_size, "stride": old.stride, "padding": old.padding}
    setattr(owner, attribute, nn.Conv2d(channels, old.out_channels, bias=old.bias is not None, **shape))


def _first_convolution(network: nn.Module) -> tuple[nn.Module, str, nn.Conv2d]:
    """The convolution that reads the image, the module that holds it, and its name there."""
    path, convolution = next((path, each) for path, each in network.named_modules() if isinstance(each, nn.Conv2d))
    parent, _, attribute = path.rpartition(".")
    return network.get_submodule(parent), attribute, convolution


def stages_of(network: nn.Module, *, image: Tensor) -> tuple[str, ...]:
    """The last module of each resolution, shallow to deep; of a transformer, each quarter of its layers.

    `image` is [1, C, H, W] on the network's device.
    """
    if isinstance(network, VisionTransformer):
        layers = [f"encoder.layers.{name}" for name, _ in network.get_submodule("encoder.layers").named_children()]
        return tuple(layers[len(layers) * quarter // 4 - 1] for quarter in (1, 2, 3, 4))
    trunk = next((name for name in _TRUNKS if hasattr(network, name)), "")
    sides: dict[str, int] = {}

    def seen(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            if isinstance(outputs, Tensor) and outputs.ndim == 4:
                # Swin keeps channels last; the spatial side stands at place 1 or 2 either way.
                sides[path] = outputs.shape[2]

        return hook

    children = network.get_submodule(trunk).named_children()
    watched = [(f"{trunk}.{name}".lstrip("."), each) for name, each in children if not isinstance(each, _NO_STAGE)]
    hooks = [each.register_forward_hook(seen(path)) for path, each in watched]
    network.eval()(image)
    for hook in hooks:
        hook.remove()
    last_of_side = {side: path for path, side in sides.items()}
    return tuple(path for path in sides if path in last_of_side.values())


_NO_STAGE = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Dropout, nn.Linear, nn.Identity)
