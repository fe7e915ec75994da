"""Arrays that are images already, brought to the channels and the size that an import asks for."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.intake.pixels import scaled_size

_MODES = {1: "L", 3: "RGB"}


def shaped(pixels: NDArray[np.uint8], *, channels: int, short_side: int) -> tuple[NDArray[np.uint8], bool]:
    """An image, uint8 [C, H, W] with 1 or 3 channels, as uint8 [channels, H, W], and whether it was scaled down."""
    height, width = pixels.shape[1:]
    size = scaled_size((width, height), short_side=short_side)
    if size == (width, height) and len(pixels) == channels:
        return np.ascontiguousarray(pixels), False
    plain = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    image = Image.fromarray(plain).convert(_MODES[channels])
    scaled = size != image.size
    if scaled:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    array = np.asarray(image).reshape(size[1], size[0], channels)
    return np.ascontiguousarray(array.transpose(2, 0, 1)), scaled
