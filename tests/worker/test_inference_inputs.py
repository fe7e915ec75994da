"""What may be sent to be predicted, and how each fault is told: where it stands, and how to mend it."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distillery.errors import InvalidInput
from engine.data.image_folder import decoded
from engine.data.resize import squared
from worker.inference import inputs

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 14, 3), dtype=np.uint8)


def encoded(pixels: Any = PIXELS, kind: str = "PNG") -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, kind)
    return held.getvalue()


def in_json(**sent: Any) -> bytes:
    return json.dumps(sent).encode()


def read(body: bytes, media_type: str = "application/json") -> inputs.Given:
    return inputs.read(body, media_type=media_type, top_k=5, logits=False)


def pixels(body: bytes, media_type: str = "application/json", *, channels: int = 3, size: int = 8) -> torch.Tensor:
    return inputs.pixels(read(body, media_type), channels=channels, size=size)


@pytest.mark.parametrize(("kind", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_read_cut_and_resized_as_those_of_a_data_set(
    tmp_path: Any, kind: str, media_type: str, channels: int
) -> None:
    (tmp_path / f"image.{kind.lower()}").write_bytes(encoded(kind=kind))
    expected = squared(decoded(tmp_path / f"image.{kind.lower()}", channels=channels).unsqueeze(0), size=8)
    assert torch.equal(pixels(encoded(kind=kind), media_type, channels=channels), expected)
    body = in_json(images=[base64.b64encode(encoded(kind=kind)).decode()] * 2)
    assert torch.equal(pixels(body, channels=channels), torch.cat([expected, expected]))


def test_whole_numbers_are_resized_as_an_image_of_them_is() -> None:
    numbers = PIXELS.transpose(2, 0, 1)
    one = pixels(in_json(arrays=numbers.tolist(), values="0-255"))
    assert torch.equal(one, pixels(encoded(), "image/png"))
    assert torch.equal(pixels(in_json(arrays=[numbers.tolist()] * 2, values="0-255")), torch.cat([one, one]))


def test_numbers_from_0_to_1_are_those_of_pixels_divided_by_255() -> None:
    numbers = np.random.default_rng(1).integers(0, 256, (2, 1, 8, 8))
    found = pixels(in_json(arrays=(numbers / 255).tolist(), values="0-1"), channels=1)
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.from_numpy(numbers).float(), atol=1e-4)


def test_what_the_body_says_comes_before_what_the_query_says() -> None:
    assert (read(in_json(images=["AA=="])).top_k, read(in_json(images=["AA=="])).logits) == (5, False)
    given = read(in_json(images=["AA=="], top_k=2, logits=True))
    assert (given.top_k, given.logits) == (2, True)


ONE = np.zeros((1, 8, 8), dtype=int).tolist()
RAGGED = [*ONE, [[0] * 8] * 7 + [[0] * 7]]
PNG = base64.b64encode(encoded()).decode()


@pytest.mark.parametrize(
    ("sent", "pointer", "told"),
    [
        (b"", "", "not JSON"),
        (b"{", "", "not JSON"),
        (b"[" * 100_000, "", "not JSON"),
        (b'{"arrays": [NaN], "values": "0-1"}', "", "not JSON"),
        (b"[1]", "", "no JSON object"),
        (in_json(), "", "Exactly one of"),
        (in_json(images=[PNG], arrays=ONE, values="0-255"), "", "Exactly one of"),
        (in_json(images=[]), "/images", "1 or more"),
        (in_json(images=[PNG] * 65), "/images", "at most 64"),
        (in_json(images=[PNG, 7]), "/images/1", "string"),
        (in_json(images=[PNG, "not base64!"]), "/images/1", "not base64"),
        (in_json(images=[PNG, PNG, "AAAA"]), "/images/2", "not a whole"),
        (in_json(images=[PNG, base64.b64encode(encoded()[:200]).decode()]), "/images/1", "not a whole"),
        (in_json(picture=[PNG]), "/picture", "not known"),
        (in_json(images=[PNG], top_k=0), "/top_k", "greater than or equal to 1"),
        (in_json(images=[PNG], top_k=101), "/top_k", "less than or equal to 100"),
        (in_json(images=[PNG], top_k="3"), "/top_k", "a number"),
        (in_json(images=[PNG], logits=1), "/logits", "true or false"),
        (in_json(images=[PNG], values="0-1"), "/values", "belongs to 'arrays'"),
        (in_json(arrays=ONE), "/values", "belongs to 'arrays'"),
        (in_json(arrays=ONE, values="0-2"), "/values", "0-255"),
        (in_json(arrays=[], values="0-255"), "/arrays", "1 or more"),
        (in_json(arrays=7, values="0-255"), "/arrays", "a list"),
        (in_json(arrays=[1, 2], values="0-255"), "/arrays", "1 dimensions"),
        (in_json(arrays=[[[[[1]]]]], values="0-255"), "/arrays", "5 dimensions"),
        (in_json(arrays=[ONE] * 65, values="0-255"), "/arrays", "65 images"),
        (in_json(arrays=RAGGED, values="0-255"), "/arrays/1/7", "a list of 7"),
        (in_json(arrays=[[[0, 1], 5]], values="0-255"), "/arrays/0/1", "no list"),
        (in_json(arrays=[[[]]], values="0-255"), "/arrays/0/0", "a list of 0"),
        (in_json(arrays=[[[0, 256]]], values="0-255"), "/arrays/0/0/1", "256 is not a whole number"),
        (in_json(arrays=[[[0, 0.5]]], values="0-255"), "/arrays/0/0/1", "0.5 is not a whole number"),
        (in_json(arrays=[[[0, True]]], values="0-255"), "/arrays/0/0/1", "True is not a whole number"),
        (in_json(arrays=[[[0, None]]], values="0-255"), "/arrays/0/0/1", "None is not"),
        (in_json(arrays=[[[0, -0.1]]], values="0-1"), "/arrays/0/0/1", "-0.1 is not a number from 0 to 1"),
        (in_json(arrays=[[[0, 200]]], values="0-1"), "/arrays/0/0/1", "200 is not a number from 0 to 1"),
        (in_json(arrays=[[[0, "1"]]], values="0-1"), "/arrays/0/0/1", "is not a number"),
        (in_json(arrays=ONE, values="0-255"), "/arrays", "1 channels, and the network reads 3"),
        (in_json(arrays=np.zeros((3, 8, 9)).tolist(), values="0-1"), "/arrays", "8x9 numbers"),
    ],
)
def test_a_fault_is_told_with_its_place(sent: bytes, pointer: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        pixels(sent)
    (problem, *_) = caught.value.problems
    assert problem.pointer == pointer
    assert told in f"{problem.detail} {problem.hint}"
    assert problem.hint or problem.code != "INVALID_INPUT"


def test_a_small_file_with_too_many_pixels_is_refused_undecoded() -> None:
    held = io.BytesIO()
    Image.new("1", (9000, 8000)).save(held, "PNG")
    with pytest.raises(InvalidInput, match="9000x8000 pixels; at most 64,000,000"):
        pixels(held.getvalue(), "image/png")


def test_all_images_together_have_a_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MOST_PIXELS", 20 * 14 * 2 + 10)
    assert len(pixels(in_json(images=[PNG] * 2))) == 2
    with pytest.raises(InvalidInput, match="at most 10 are decoded") as caught:
        pixels(in_json(images=[PNG] * 3))
    assert caught.value.problems[0].pointer == "/images/2"


def test_an_address_in_memory_is_told_to_nobody() -> None:
    with pytest.raises(InvalidInput) as caught:
        pixels(b"no image at all", "image/png")
    assert "0x" not in str(caught.value)
