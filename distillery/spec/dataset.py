"""Which images to learn from, how to split them and how to augment them."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distillery.spec.frozen import Frozen

Augmentation = Literal["crop", "flip"]
MOST_VIEWS = 10_000
Fraction = Annotated[float, Field(gt=0, lt=0.9)]
ClassName = Annotated[str, Field(max_length=200)]
LocalPath = Annotated[str, Field(min_length=1, max_length=4096)]


DatasetId = Annotated[str, Field(pattern=r"^dts_[0-9a-hjkmnp-tv-z]{26}$")]


class UnlabelledData(Frozen):
    """Images that nobody labelled: those of a kept data set, or those below a folder."""

    id: DatasetId | None = None
    """A data set that the service keeps: its images without labels, or all of them where each has one."""
    path: LocalPath | None = None
    """A folder of images, as the worker sees it; searched to its depth."""

    @model_validator(mode="after")
    def _one_source(self) -> "UnlabelledData":
        if (self.id is None) == (self.path is None):
            raise ValueError("Exactly one of 'id' and 'path' is needed. Leave the other out.")
        return self


class ImageData(Frozen):
    """What every kind of image data set shares."""

    image_size: Annotated[int, Field(ge=4, le=1024)] | None = None
    """Side of the square that images are resized to, in pixels. None keeps the size they have."""
    validation: Fraction = 0.1
    """Share of the training images held back for choosing the best epoch, where the data brings no such split."""
    test: Fraction = 0.2
    """Share of all images held back for the one final test, where the data brings no such split."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Draws the held-back images (stratified by class), apart from the training seed."""
    augment: Annotated[tuple[Augmentation, ...], Field(max_length=8)] = ()
    """`crop`: pad by an eighth of the side and crop at random. `flip`: mirror at random."""
    views: Annotated[int, Field(ge=1, le=MOST_VIEWS)] | Literal["auto", "all"] = "auto"
    """How many different views of each image student and baseline are shown, drawn once for all jobs, so that the
    teacher need say nothing twice. `all` draws each view anew, without an end. `auto` takes a quarter of the epochs, at
    least 8, where a frozen teacher teaches and its answers may be kept; else `all`."""
    limit: Annotated[int, Field(ge=10, le=100_000_000)] | None = None
    """Use only this many training images (stratified), to try a job out quickly."""
    unlabelled: UnlabelledData | None = None
    """More images for the student alone: the teacher labels them. The baseline, which has no teacher, goes without."""


class DigitsData(ImageData):
    """The 1,797 handwritten digits (8x8, grey) that ship inside scikit-learn."""

    kind: Literal["digits"] = "digits"


class IdxData(ImageData):
    """A folder with the four idx files of the MNIST family, plain or gzipped."""

    kind: Literal["idx"] = "idx"
    path: LocalPath
    """The folder, as the worker sees it."""


class ImageFolderData(ImageData):
    """A folder with one sub-folder per class, optionally below `train`, `val` or `validation`, and `test`."""

    kind: Literal["image_folder"] = "image_folder"
    path: LocalPath
    channels: Literal[1, 3] = 3
    """1 reads the images as grey, 3 as RGB."""


class NpzData(ImageData):
    """A NumPy archive with `x_train, y_train, x_test, y_test`, or `images, labels`. Pickled arrays are refused."""

    kind: Literal["npz"] = "npz"
    path: LocalPath
    classes: Annotated[tuple[ClassName, ...], Field(max_length=100_000)] | None = None
    """Class names in the order of the labels; numbers when left out."""


class TorchvisionData(ImageData):
    """A torchvision data set that already lies below `root`. Nothing is downloaded."""

    kind: Literal["torchvision"] = "torchvision"
    name: Literal["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "SVHN", "STL10"]
    root: LocalPath


class NamedData(ImageData):
    """A data set by name: `digits`, or a folder of that name below the worker's data root."""

    kind: Literal["named"] = "named"
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """`digits`, or a folder of `$DISTILLERY_DATA`, whose format is recognised from its files."""


class StoredData(ImageData):
    """A data set that the service keeps. Its splits were made when it was added: `validation` and `test` do nothing."""

    kind: Literal["stored"] = "stored"
    id: DatasetId


def _kind_of_a_bare_name(value: Any) -> Any:
    if isinstance(value, dict) and "kind" not in value:
        for field, kind in (("name", "named"), ("id", "stored")):
            if field in value:
                return {"kind": kind, **value}
    return value


DatasetSpec = Annotated[
    Annotated[
        DigitsData | IdxData | ImageFolderData | NpzData | TorchvisionData | NamedData | StoredData,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_kind_of_a_bare_name),
]
"""Any kind of image data set, told apart by `kind`; `{name: digits}` is short for the kind `named`,
`{id: dts_…}` for `stored`."""
