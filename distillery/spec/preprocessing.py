"""What a network expects of an image."""

from typing import Annotated, Literal

from pydantic import Field

from distillery.spec.frozen import Frozen

Interpolation = Literal["bilinear", "bicubic", "nearest"]


class Preprocessing(Frozen):
    """What a network expects of an image: (pixel / 255 * scale - mean) / std, channel by channel."""

    image_size: Annotated[int, Field(ge=4, le=1024)]
    """Side of the square, in pixels."""
    channels: Literal[1, 3] = 3
    mean: Annotated[tuple[Annotated[float, Field(ge=-65535, le=65535)], ...], Field(min_length=1, max_length=3)] = (
        0.0,
    )
    """One for each channel, or one for all."""
    std: Annotated[tuple[Annotated[float, Field(gt=0, le=65535)], ...], Field(min_length=1, max_length=3)] = (1.0,)
    scale: Annotated[float, Field(gt=0, le=65535)] = 1.0
    """The largest value of a pixel before mean and std: 1, or 255 for networks that read bytes."""
    layout: Literal["nchw", "nhwc", "flat"] = "nchw"
    """Order of the axes; `flat` is one row of channels x height x width for each image."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    interpolation: Interpolation = "bilinear"
