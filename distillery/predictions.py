"""What networks are asked about images, and what they answer."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from distillery.spec.frozen import Frozen
from distillery.views import View

MOST_IMAGES = 64
MOST_TOP = 100
TOP_K = 5
MOST_BODY_BYTES = 16 << 20
IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
MEDIA_TYPES = (*IMAGE_TYPES, "application/json")
RuntimeChoice = Literal["auto", "eager"]
Values = Literal["0-255", "0-1"]
TopK = Annotated[int, Field(ge=1, le=MOST_TOP)]


class PredictionInput(Frozen):
    """What is asked, where it is more than the bytes of one image."""

    images: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_IMAGES)] | None = None
    """Each a PNG, JPEG or WebP file in base64."""
    arrays: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """Numbers in place of images: nested as [N, C, H, W], or as [C, H, W] for one."""
    values: Values | None = None
    """What the numbers of `arrays` are. `0-255`: whole numbers, as in an image; of any size, and resized as images are.
    `0-1`: the same divided by 255, at the size of the network, and neither cut nor resized."""
    top_k: TopK | None = None
    """How many classes to tell of each image; in place of the one in the query."""
    logits: bool | None = None
    """Whether to tell all logits; in place of the one in the query."""


class ClassScore(View):
    """A class, and how probable the network finds it."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    name: Annotated[str, Field(alias="class")]
    index: int
    """Its place among the network's outputs."""
    probability: float


class ImagePrediction(View):
    """The answer to one image."""

    top: tuple[ClassScore, ...]
    """The most probable classes, the most probable first."""
    logits: tuple[float, ...] | None = None
    """One for each class, where they were asked for."""


class PredictionTimings(View):
    """Where the time went, in seconds."""

    decode: float
    """Reading the images: base64, PNG or JPEG, cut and resized."""
    load: float
    """Waiting for the network to be fetched and loaded; 0 when it was there."""
    queue: float
    """Waiting for the batches before."""
    compute: float
    """Of the batches that the images were computed in, whole."""
    total: float
    """From the arrival at the worker to the answer."""


class NetworkPrediction(View):
    """What one network answered."""

    role: Literal["student", "teacher", "model"]
    architecture: str
    runtime: Literal["eager", "onnxruntime"]
    sha256: str
    """Of the file that was loaded."""
    predictions: tuple[ImagePrediction, ...]
    """One for each image, in their order."""
    timings: PredictionTimings
    batch_size: int
    """Images, of this request and of others, that were computed together; of several batches the largest."""
    cold: bool
    """Whether the network had to be loaded."""


class ModelPrediction(NetworkPrediction):
    """The answer of a kept model."""

    model: str
    """Its id."""


class JobPrediction(View):
    """Student and teacher, asked the same."""

    job: str
    student: NetworkPrediction
    teacher: NetworkPrediction | None
    """None where the job has delivered no teacher that can be asked."""
    agree: tuple[bool, ...] | None
    """For each image, whether both find the same class the most probable; None without a teacher."""
    note: str = ""
    """Why there is no teacher."""
