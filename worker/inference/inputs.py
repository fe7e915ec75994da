"""What was sent, as pixels: read and bounded here, cut and resized as the images were that the network learned from."""

import base64
import binascii
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import from_json

from distillery.errors import FieldProblem, InvalidInput, UnreadableData
from distillery.predictions import MOST_IMAGES, PredictionInput, Values
from distillery.spec.problems import field_problems

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

MOST_PIXELS = 128_000_000
"""Of all images of a request, before they are resized: a small file may hold many, and they take time."""
MOST_IMAGE_PIXELS = 64_000_000
_LARGEST = 255
_DIMENSIONS = (3, 4)


@dataclass(frozen=True)
class Given:
    """A request that was read, its images not yet decoded. It holds no more bytes than were sent."""

    images: tuple[bytes, ...]
    pointers: tuple[str, ...]
    """Where each stands in what was sent."""
    arrays: "NDArray[np.uint8] | NDArray[np.float32] | None"
    """[N, C, H, W]: uint8, or float32 from 0 to 1."""
    top_k: int
    logits: bool


def read(body: bytes, *, media_type: str, top_k: int, logits: bool) -> Given:
    """What the body says; `top_k` and `logits` are those of the query.

    Raises:
        InvalidInput: it is not as agreed; each problem says where.
    """
    if media_type != "application/json":
        return Given((body,), ("",), None, top_k, logits)
    asked, arrays = _checked(body)
    images = [_from_base64(text, place) for place, text in enumerate(asked.images or ())]
    return Given(
        tuple(images),
        tuple(f"/images/{place}" for place in range(len(images))),
        None if asked.values is None else _packed(arrays, values=asked.values),
        top_k if asked.top_k is None else asked.top_k,
        logits if asked.logits is None else asked.logits,
    )


def _checked(body: bytes) -> tuple[PredictionInput, Any]:
    try:
        sent = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise refused("", f"The body is not JSON: {error}.", "Send one JSON object, in UTF-8.") from None
    if not isinstance(sent, dict):
        raise refused("", "The body is no JSON object.", 'Send {"images": ["<base64>"]}.')
    arrays = sent.get("arrays")
    # Numbers are looked through once, further on.
    shown = sent | {"arrays": [None]} if isinstance(arrays, list) and arrays else sent
    try:
        asked = PredictionInput.model_validate(shown)
    except ValidationError as error:
        raise InvalidInput(field_problems(error, shown)) from None
    if (asked.images is None) == (arrays is None):
        raise refused("", "Exactly one of 'images' and 'arrays' is needed.", "Leave the other out.")
    if (arrays is None) != (asked.values is None):
        hint = "Say with 'values' whether the numbers go from 0 to 255 or from 0 to 1: they do not tell by themselves."
        raise refused("/values", "'values' belongs to 'arrays', and 'arrays' needs it.", hint)
    return asked, arrays


def _from_base64(text: str, place: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        pointer = f"/images/{place}"
        raise refused(pointer, f"This is not base64: {error}.", "Encode the bytes of the file.") from None


def _packed(sent: Any, *, values: Values) -> "NDArray[np.uint8] | NDArray[np.float32]":
    """Nested lists as one array: they would take twenty times the memory while the request waits."""
    import numpy as np

    shape = _shape(sent)
    if len(shape) not in _DIMENSIONS:
        raise refused(
            "/arrays", f"The arrays have {len(shape)} dimensions.", "Nest them as [N, C, H, W], or [C, H, W] for one."
        )
    count = 1 if len(shape) == min(_DIMENSIONS) else shape[0]
    if count > MOST_IMAGES:
        raise refused("/arrays", f"There are {count} images.", f"Send at most {MOST_IMAGES} at once.")
    whole = values == "0-255"
    numbers: array[Any] = array("B" if whole else "f")
    for row in _rows(sent, shape, "/arrays", whole=whole):
        numbers.extend(row)
    full = (count, *shape[-3:])
    return np.frombuffer(numbers, np.uint8).reshape(full) if whole else np.frombuffer(numbers, np.float32).reshape(full)


def _shape(sent: Any) -> tuple[int, ...]:
    """As the first of each list has it; `_rows` holds the others against it."""
    lengths: list[int] = []
    while isinstance(sent, list) and len(lengths) <= max(_DIMENSIONS):
        lengths.append(len(sent))
        sent = sent[0] if sent else None
    return tuple(lengths)


def _rows(sent: Any, shape: Sequence[int], pointer: str, *, whole: bool) -> Iterator[list[float]]:
    """The innermost lists in their order; what does not fit the shape or the range is refused where it stands."""
    if not isinstance(sent, list) or len(sent) != shape[0] or not sent:
        found = f"a list of {len(sent)}" if isinstance(sent, list) else "no list"
        raise refused(pointer, f"Here is {found}.", "Make every image of the same shape, with a number at each place.")
    if len(shape) > 1:
        for place, inner in enumerate(sent):
            yield from _rows(inner, shape[1:], f"{pointer}/{place}", whole=whole)
        return
    most, kinds = (_LARGEST, (int,)) if whole else (1, (int, float))
    for place, number in enumerate(sent):
        if type(number) not in kinds or not 0 <= number <= most or not math.isfinite(number):
            wanted = "a whole number from 0 to 255" if whole else "a number from 0 to 1"
            shown = "A list" if isinstance(number, list) else repr(number)[:40]
            raise refused(f"{pointer}/{place}", f"{shown} is not {wanted}, as 'values' says.", "Mend it, or 'values'.")
    yield sent


def pixels(given: Given, *, channels: int, size: int) -> "torch.Tensor":
    """[N, channels, size, size]: uint8, or float32 from 0 to 255 where numbers from 0 to 1 were sent.

    Raises:
        InvalidInput: an image cannot be decoded, or an array has a shape that the network does not read.
    """
    import torch

    if given.arrays is not None:
        return _of_arrays(given.arrays, channels=channels, size=size)
    return torch.cat(list(_decoded(given, channels=channels, size=size)))


def _decoded(given: Given, *, channels: int, size: int) -> "Iterator[torch.Tensor]":
    """One after the other, so that no two large ones are in memory at once."""
    from engine.data.image_folder import decoded_bytes
    from engine.data.resize import squared

    left = MOST_PIXELS
    for content, pointer in zip(given.images, given.pointers, strict=True):
        try:
            image = decoded_bytes(
                content,
                channels=channels,
                named="The image",
                hint="Send the bytes of a whole PNG, JPEG or WebP file.",
                most_pixels=min(left, MOST_IMAGE_PIXELS),
            )
        except UnreadableData as error:
            raise refused(pointer, error.detail, error.hint) from None
        left -= image.shape[1] * image.shape[2]
        yield squared(image.unsqueeze(0), size=size)


def _of_arrays(sent: "NDArray[np.uint8] | NDArray[np.float32]", *, channels: int, size: int) -> "torch.Tensor":
    import torch

    from engine.data.resize import squared

    images, own = torch.from_numpy(sent.copy()), sent.shape[1:]
    if own[0] != channels:
        raise refused(
            "/arrays",
            f"Each image has {own[0]} channels, and the network reads {channels}.",
            f"Send arrays of the shape [N, {channels}, H, W].",
        )
    if images.dtype == torch.uint8:
        return squared(images, size=size)
    if own[1:] != (size, size):
        raise refused(
            "/arrays",
            f"Each image has {own[1]}x{own[2]} numbers from 0 to 1, and the network reads {size}x{size}.",
            "Bring them to that size, or send numbers from 0 to 255, which are resized as images are.",
        )
    return images * _LARGEST


def refused(pointer: str, detail: str, hint: str) -> InvalidInput:
    """The refusal of one thing that was sent."""
    return InvalidInput([FieldProblem(pointer, InvalidInput.code, detail, hint)])
