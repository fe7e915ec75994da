"""What was sent, as pixels: read and bounded here, cut and resized as the images were that the network learned from."""

import base64
import binascii
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import from_json

from distillery.errors import FieldProblem, InvalidInput, UnreadableData
from distillery.predictions import MOST_IMAGES, PredictionInput, Values
from distillery.spec.problems import field_problems

if TYPE_CHECKING:
    import torch

MOST_PIXELS = 128_000_000
"""Of all images of a request, before they are resized: a small file may hold many, and they take time."""
MOST_IMAGE_PIXELS = 64_000_000
_LARGEST = 255
_DIMENSIONS = (3, 4)


@dataclass(frozen=True)
class Given:
    """A request that was read, its images not yet decoded."""

    images: tuple[bytes, ...]
    pointers: tuple[str, ...]
    """Where each stands in what was sent."""
    arrays: Any
    values: Values | None
    top_k: int
    logits: bool


def read(body: bytes, *, media_type: str, top_k: int, logits: bool) -> Given:
    """What the body says; `top_k` and `logits` are those of the query.

    Raises:
        InvalidInput: it is not as agreed; each problem says where.
    """
    if media_type != "application/json":
        return Given((body,), ("",), None, None, top_k, logits)
    asked, arrays = _checked(body)
    images = [_from_base64(text, place) for place, text in enumerate(asked.images or ())]
    return Given(
        tuple(images),
        tuple(f"/images/{place}" for place in range(len(images))),
        arrays,
        asked.values,
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


def pixels(given: Given, *, channels: int, size: int) -> "torch.Tensor":
    """[N, channels, size, size]: uint8, or float32 from 0 to 255 where numbers from 0 to 1 were sent.

    Raises:
        InvalidInput: an image cannot be decoded, or an array has numbers or a shape that cannot be meant.
    """
    import torch

    if given.arrays is not None:
        return _of_arrays(given.arrays, values=given.values, channels=channels, size=size)
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


def _of_arrays(sent: Any, *, values: Values | None, channels: int, size: int) -> "torch.Tensor":
    import torch

    from engine.data.resize import squared

    shape = _shape(sent)
    if len(shape) not in _DIMENSIONS:
        raise refused(
            "/arrays", f"The arrays have {len(shape)} dimensions.", "Nest them as [N, C, H, W], or [C, H, W] for one."
        )
    images = [sent] if len(shape) == min(_DIMENSIONS) else sent
    if len(images) > MOST_IMAGES:
        raise refused("/arrays", f"There are {len(images)} images.", f"Send at most {MOST_IMAGES} at once.")
    own = shape[-3:]
    if own[0] != channels:
        raise refused(
            "/arrays", f"Each image has {own[0]} channels, and the network reads {channels}.", f"Send {channels}."
        )
    if values == "0-1" and own[1:] != (size, size):
        raise refused(
            "/arrays",
            f"Each image has {own[1]}x{own[2]} numbers from 0 to 1, and the network reads {size}x{size}.",
            "Bring them to that size, or send numbers from 0 to 255, which are resized as images are.",
        )
    flat = list(_numbers(sent, shape, "/arrays", whole=values == "0-255"))
    placed = torch.tensor(flat, dtype=torch.float64).view(len(images), *own)
    if values == "0-1":
        return (placed * _LARGEST).float()
    return squared(placed.to(torch.uint8), size=size)


def _shape(sent: Any) -> tuple[int, ...]:
    """As the first of each list has it; `_numbers` holds the others against it."""
    lengths: list[int] = []
    while isinstance(sent, list) and len(lengths) <= max(_DIMENSIONS):
        lengths.append(len(sent))
        sent = sent[0] if sent else None
    return tuple(lengths)


def _numbers(sent: Any, shape: Sequence[int], pointer: str, *, whole: bool) -> Iterator[float]:
    """All numbers in their order; what does not fit the shape or the range is refused where it stands."""
    if not isinstance(sent, list) or len(sent) != shape[0] or not sent:
        found = f"a list of {len(sent)}" if isinstance(sent, list) else "no list"
        raise refused(
            pointer, f"Here is {found}, and a list of {shape[0]} was expected.", "Make all images of a shape."
        )
    if len(shape) > 1:
        for place, inner in enumerate(sent):
            yield from _numbers(inner, shape[1:], f"{pointer}/{place}", whole=whole)
        return
    most, kinds = (_LARGEST, (int,)) if whole else (1, (int, float))
    for place, number in enumerate(sent):
        if type(number) not in kinds or not 0 <= number <= most or not math.isfinite(number):
            wanted = "a whole number from 0 to 255" if whole else "a number from 0 to 1"
            shown = repr(number)[:40]
            raise refused(f"{pointer}/{place}", f"{shown} is not {wanted}, as 'values' says.", "Mend it, or 'values'.")
    yield from sent


def refused(pointer: str, detail: str, hint: str) -> InvalidInput:
    """The refusal of one thing that was sent."""
    return InvalidInput([FieldProblem(pointer, InvalidInput.code, detail, hint)])
