"""Square images of one size."""

import torch
from torch import Tensor
from torch.nn import functional

_PIXELS_AT_ONCE = 2**26  # bounds the extra memory of a resize, whatever the size of the data set


def squared(images: Tensor, *, size: int) -> Tensor:
    """Cut uint8 [N, C, H, W] to the centred square and resize that to [N, C, size, size].

    Bilinear with antialias, in torch's fixed-point arithmetic for uint8, which gives the same bytes on every kind of
    processor. Cutting first shows the same part of the image as resizing the short side and cutting then.
    """
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[..., top : top + side, left : left + side]
    if side == size:
        return images.contiguous()
    out = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    chunk = max(1, _PIXELS_AT_ONCE // (images.shape[1] * max(side, size) ** 2))
    for start in range(0, len(images), chunk):
        piece = images[start : start + chunk].contiguous()
        out[start : start + chunk] = functional.interpolate(
            piece, size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
    return out
