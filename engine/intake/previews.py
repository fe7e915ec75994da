"""What a data set looks like, read from its packed file: counts, sizes, samples, and a sheet of pictures."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from engine.data.packed import SPLITS, UNLABELLED, Packed
from engine.intake import names

SHEET, FACTS = "preview.png", "preview.json"
_SAMPLES, _LONGEST_TEXT = 25, 500
_MOST_PICTURES = 64
_SIZE_BUCKETS = 24
_LENGTH_BUCKETS = 20
_TILE, _GAP, _CAPTION, _MARGIN = 96, 10, 20, 18
_PAPER, _INK, _FAINT, _BAR = (255, 255, 255), (33, 37, 41), (134, 142, 150), (76, 110, 180)


def facts(packed: Packed) -> dict[str, Any]:
    """The preview as JSON: task, splits, classes and their counts per split, sizes or lengths, and samples."""
    head = packed.head
    counts = {
        split: np.bincount(packed.labels[rows][packed.labels[rows] >= 0], minlength=len(head.classes)).tolist()
        for split in SPLITS
        if len(rows := packed.rows(split))
    }
    images = head.task == "image-classification"
    return {
        "task": head.task,
        "classes": list(head.classes),
        "splits": {split: len(packed.rows(split)) for split in SPLITS},
        "class_histogram": counts,
        **({"size_histogram": _sizes(packed)} if images else {"length_histogram": _lengths(packed)}),
        "samples": [_sample(packed, row) for row in stratified(packed.labels, most=_SAMPLES)],
    }


def draw(packed: Packed, path: Path) -> None:
    """Write the sheet as PNG: pictures with their labels; of texts the histogram of their lengths."""
    images = packed.head.task == "image-classification"
    sheet = _contact_sheet(packed) if images else _length_chart(packed)
    sheet.save(path, "PNG", optimize=True)


def stratified(labels: NDArray[np.int64], *, most: int) -> list[int]:
    """At most `most` rows of `labels`, as many of each class as there is room for, by class; the same every time."""
    random = np.random.RandomState(0)
    groups = [random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)[: most + 1]]
    chosen: list[tuple[int, int]] = []
    for turn in range(most):
        for place, rows in enumerate(groups):
            if turn < len(rows) and len(chosen) < most:
                chosen.append((place, int(rows[turn])))
    return [row for _, row in sorted(chosen)]


def _sample(packed: Packed, row: int) -> dict[str, Any]:
    label = int(packed.labels[row])
    told: dict[str, Any] = {
        "row": row,
        "name": names.shown(packed.name(row)),
        "split": SPLITS[int(packed.split[row])],
        "label": None if label == UNLABELLED else packed.head.classes[label],
    }
    if packed.head.task == "image-classification":
        height, width = packed.sizes[row].tolist()
        return {**told, "height": height, "width": width}
    return {**told, "text": names.shown_text(packed.text(row), most=_LONGEST_TEXT)}


def _sizes(packed: Packed) -> list[dict[str, int]]:
    """How many images there are of each size; of many sizes those of neighbouring ones together."""
    counts = Counter(map(tuple, packed.sizes.tolist()))
    step = 1
    while len({(h // step, w // step) for h, w in counts}) > _SIZE_BUCKETS:
        step *= 2
    together: Counter[tuple[int, int]] = Counter()
    for (height, width), count in counts.items():
        together[height // step, width // step] += count
    return [
        {"width": w * step, "height": h * step, "up_to_width": (w + 1) * step - 1, "up_to_height": (h + 1) * step - 1,
         "count": count}
        for (h, w), count in sorted(together.items())
    ]  # fmt: skip


def _lengths(packed: Packed) -> list[dict[str, int]]:
    """How many texts have how many characters, up to the longest."""
    lengths = np.fromiter((len(packed.text(row)) for row in range(len(packed))), dtype=np.int64, count=len(packed))
    step = max(1, _rounded_up(int(lengths.max()) / _LENGTH_BUCKETS))
    counts = np.bincount(lengths // step)
    return [{"from": at * step, "to": (at + 1) * step - 1, "count": int(count)} for at, count in enumerate(counts)]


def _rounded_up(value: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    power = 10 ** math.floor(math.log10(max(value, 1)))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= value))


def _contact_sheet(packed: Packed) -> Image.Image:
    """Pictures by class, each fitted into a square, its label below."""
    rows = stratified(packed.labels, most=_MOST_PICTURES)
    columns = min(len(rows), max(4, math.ceil(math.sqrt(len(rows)))))
    lines = math.ceil(len(rows) / columns)
    width = 2 * _MARGIN + columns * (_TILE + _GAP) - _GAP
    height = 2 * _MARGIN + lines * (_TILE + _CAPTION + _GAP) - _GAP
    sheet, font = Image.new("RGB", (width, height), _PAPER), ImageFont.load_default(size=12)
    pen = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows):
        left = _MARGIN + place % columns * (_TILE + _GAP)
        top = _MARGIN + place // columns * (_TILE + _CAPTION + _GAP)
        picture = _fitted(packed.image(row))
        sheet.paste(picture, (left + (_TILE - picture.width) // 2, top + (_TILE - picture.height) // 2))
        label = int(packed.labels[row])
        title = "without a label" if label == UNLABELLED else packed.head.classes[label]
        ink = _FAINT if label == UNLABELLED else _INK
        pen.text(
            (left + _TILE / 2, top + _TILE + 4), _shortened(title, font, most=_TILE), fill=ink, font=font, anchor="ma"
        )
    return sheet


def _fitted(pixels: NDArray[np.uint8]) -> Image.Image:
    """uint8 [C, H, W] scaled into a tile: small pictures by whole pixels, so that they stay what they are."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    longest = max(image.size)
    if longest <= _TILE // 2:
        times = _TILE // longest
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    size = (max(1, image.width * _TILE // longest), max(1, image.height * _TILE // longest))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _shortened(text: str, font: Any, *, most: int) -> str:
    """As much of a text as is at most so many pixels wide."""
    text = names.shown(text, most=60)
    if font.getlength(text) <= most:
        return text
    while text and font.getlength(f"{text}…") > most:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _length_chart(packed: Packed) -> Image.Image:
    bars = _lengths(packed)
    width, height, bottom, left = 720, 320, 44, 64
    sheet, font = Image.new("RGB", (width, height), _PAPER), ImageFont.load_default(size=12)
    pen = ImageDraw.Draw(sheet)
    title = ImageFont.load_default(size=14)
    pen.text((left, 14), f"Length of {len(packed):,} texts in characters", fill=_INK, font=title)
    tallest = max(bar["count"] for bar in bars)
    floor, ceiling = height - bottom, 52
    _grid(pen, tallest, font=font, left=left, right=width - 20, floor=floor, ceiling=ceiling)
    wide = (width - 20 - left) / len(bars)
    for place, bar in enumerate(bars):
        x, tall = left + place * wide, (floor - ceiling) * bar["count"] / tallest
        if bar["count"]:
            pen.rectangle((x + 1, min(floor - tall, floor - 1), x + wide - 2, floor), fill=_BAR)
        if place % max(1, len(bars) // 8) == 0:
            pen.text((x, floor + 6), f"{bar['from']:,}", fill=_FAINT, font=font, anchor="ma")
    pen.line((left, floor, width - 20, floor), fill=_INK)
    return sheet


def _grid(
    pen: ImageDraw.ImageDraw, tallest: int, *, font: Any, left: int, right: int, floor: int, ceiling: int
) -> None:
    """Lines at round counts, with their numbers."""
    step = _rounded_up(tallest / 4)
    for count in _steps(step, tallest):
        y = floor - (floor - ceiling) * count / tallest
        pen.line((left, y, right, y), fill=(233, 236, 239))
        pen.text((left - 8, y), f"{count:,}", fill=_FAINT, font=font, anchor="rm")


def _steps(step: int, tallest: int) -> Sequence[int]:
    return range(step, tallest + 1, step)
