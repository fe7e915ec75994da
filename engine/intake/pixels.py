"""An image file to pixels: three formats, sides and sizes bounded, and every mode brought to grey or RGB.

The pixels equal those of `engine.data.image_folder`: orientation tags and transparency are ignored, 16-bit grey keeps
its high byte.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError, WebPImagePlugin

from distillery.errors import UnreadableData

DECODERS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
"""The decoders that may run. Pillow has dozens more, most of them old and rarely looked at; it would load them all if
one of these were not loaded yet."""
FORMATS = ("JPEG", "PNG", "WEBP")
MOST_FILE_BYTES = 50 << 20
MOST_PIXELS = 40_000_000
LONGEST_SIDE = 20_000
_MODES = {1: "L", 3: "RGB"}
_GREY = ("1", "L", "LA", "La")
_MEND = "Replace the file, remove it, or import with on_error: skip."


def load_decoders() -> None:
    """Load what `Image.open` would load at its first call, so that children which are forked later need not."""
    Image.preinit()


def channels_of(content: bytes) -> int:
    """1 of a grey image, 3 of any other; nothing is decoded.

    Raises:
        UnreadableData: as `decoded`.
    """
    with _opened(content) as image:
        return 1 if image.mode in _GREY or image.mode.startswith("I;16") else 3


def decoded(content: bytes, *, channels: int, short_side: int) -> tuple[NDArray[np.uint8], bool]:
    """Pixels, uint8 [channels, H, W], and whether the image was scaled so that its short side has `short_side` of them.

    Raises:
        UnreadableData: it is not a whole, still JPEG, PNG or WebP image, or too large; the detail goes on from its
            name.
    """
    try:
        with _opened(content) as image:
            size = scaled_size(image.size, short_side=short_side)
            if image.format == "JPEG" and min(image.size) >= 4 * short_side:
                image.draft(image.mode, (2 * size[0], 2 * size[1]))  # decodes only the frequencies that are kept
            plain = _plain(image, mode=_MODES[channels])
            scaled = plain.size != size
            pixels = np.array(plain.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0) if scaled else plain)
    except UnreadableData:
        raise
    except MemoryError:
        raise UnreadableData("needs more memory to decode than may be", hint="Scale the image down.") from None
    except Exception as error:  # Pillow's decoders raise nearly every type of exception on damaged bytes
        raise UnreadableData(f"is not a whole image: {error}", hint=_MEND) from None
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)), scaled


def _opened(content: bytes) -> Image.Image:
    try:
        image: Any = Image.open(io.BytesIO(content), formats=FORMATS)
    except Exception as error:
        raise UnreadableData(f"is not a whole JPEG, PNG or WebP image: {_plainly(error)}", hint=_MEND) from None
    width, height = image.size
    if width * height > MOST_PIXELS or max(width, height) > LONGEST_SIDE:
        raise UnreadableData(
            f"has {width:,}x{height:,} pixels; at most {MOST_PIXELS:,}, and {LONGEST_SIDE:,} a side, are decoded",
            hint="Scale the image down.",
        )
    if getattr(image, "n_frames", 1) > 1:
        raise UnreadableData("is animated; only still images are read", hint="Save one frame of it.")
    return image  # type: ignore[no-any-return]


def _plainly(error: Exception) -> str:
    """What Pillow says, without the address of our buffer."""
    return "no decoder knows it" if isinstance(error, UnidentifiedImageError) else str(error)


def scaled_size(size: tuple[int, int], *, short_side: int) -> tuple[int, int]:
    """Width and height after the short side was brought down to `short_side`."""
    short = min(size)
    if short <= short_side:
        return size
    width, height = (max(short_side, (2 * side * short_side + short) // (2 * short)) for side in size)
    return width, height


def _plain(image: Image.Image, *, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would cut 16-bit grey at 255; the high byte is the same picture in 8 bits.
        grey = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
        return grey if mode == "L" else grey.convert(mode)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a palette with transparency is told apart only so
    return image.convert(mode)
