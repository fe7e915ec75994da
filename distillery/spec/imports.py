"""What a user brings along: files, data sets made from them, and networks that were trained elsewhere."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from distillery.errors import InvalidImport
from distillery.spec.dataset import ClassName, DatasetSpec, Fraction
from distillery.spec.frozen import Frozen
from distillery.spec.job import Name
from distillery.spec.preprocessing import Preprocessing
from distillery.spec.problems import field_problems
from distillery.spec.teacher import ArchitectureName

MIB = 1 << 20
SMALLEST_PART_BYTES, LARGEST_PART_BYTES = 8 * MIB, 64 * MIB
LARGEST_UPLOAD_BYTES = 20 << 30
MOST_SOURCES = 16
UploadId = Annotated[str, Field(pattern=r"^upl_[0-9a-hjkmnp-tv-z]{26}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^/\\\x00-\x1f\x7f]+$")]
Source = Annotated[str, Field(min_length=1, max_length=4096)]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]


class UploadSpec(Frozen):
    """A file that is about to be sent in parts."""

    name: FileName
    """Its name on the sender's machine, without folders; shown, and never used as a path."""
    size_bytes: Annotated[int, Field(ge=1, le=LARGEST_UPLOAD_BYTES)]
    sha256: Sha256
    """Of the whole file."""
    part_bytes: Annotated[int, Field(ge=SMALLEST_PART_BYTES, le=LARGEST_PART_BYTES)] = SMALLEST_PART_BYTES
    """Length of every part but the last, which is shorter."""


class Columns(Frozen):
    """Which columns of a table hold what; left out, the usual names are looked for."""

    image: ColumnName | None = None
    text: ColumnName | None = None
    label: ColumnName | None = None
    split: ColumnName | None = None


class _Brought(Frozen):
    """Where the bytes come from: uploads, or a place that the workers see."""

    name: Name
    uploads: Annotated[tuple[UploadId, ...], Field(max_length=MOST_SOURCES)] = ()
    """Uploaded files, each whole."""
    path: Source | None = None
    """A file or folder as the workers see it, or `s3://bucket/key`; in place of uploads."""

    @model_validator(mode="after")
    def _one_source(self) -> Any:
        if bool(self.uploads) == (self.path is not None):
            raise ValueError("Exactly one of 'uploads' and 'path' is needed. Leave the other out.")
        return self


class DatasetImport(_Brought):
    """A data set to be read once, checked, and kept in one packed form."""

    kind: Literal["dataset_import"] = "dataset_import"
    format: Literal["auto", "image_folder", "idx", "npz", "parquet", "csv", "jsonl"] = "auto"
    """`image_folder` is also a zip or tar of such a folder. `auto` looks at the content, not at names."""
    columns: Columns = Columns()
    classes: Annotated[tuple[ClassName, ...], Field(max_length=100_000)] | None = None
    """Names of the classes in the order of integer labels; data with names of its own keeps those."""
    channels: Literal[1, 3] | None = None
    """1 keeps images as grey, 3 as RGB; None is what most of the files have."""
    short_side: Annotated[int, Field(ge=8, le=1024)] = 256
    """Larger images are scaled down until their short side has so many pixels."""
    validation: Fraction = 0.1
    """Share of the training samples held back for choosing the best epoch, where the data brings no such split."""
    test: Fraction = 0.2
    """Share of all samples held back for the final test, where the data brings no such split."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    on_error: Literal["fail", "skip"] = "fail"
    """What a broken member does: end the import, or be left out and listed."""


class ModelImport(_Brought):
    """A network that was trained elsewhere, or a table of its answers."""

    kind: Literal["model_import"] = "model_import"
    architecture: ArchitectureName | None = None
    """Of safetensors: a name of the catalogue; the file's own metadata may tell it. ONNX and tables have none."""
    classes: Annotated[tuple[ClassName, ...], Field(max_length=100_000)] | None = None
    """Names of the classes in the order of the outputs."""
    preprocessing: Preprocessing | None = None
    """What the file's metadata tell is taken where this is left out."""
    outputs: Literal["auto", "logits", "probabilities"] = "auto"
    """Of ONNX and tables. `auto` takes rows that are all positive and add up to 1 for probabilities."""
    dataset: DatasetSpec | None = None
    """Measure its accuracy on the test split of this data."""


T = TypeVar("T", DatasetImport, ModelImport)


def parse_import(kind: type[T], sent: Any) -> T:
    """Validate what is to be brought along.

    Raises:
        InvalidImport: with one problem, pointer and hint for each bad field.
    """
    try:
        return kind.model_validate(sent)
    except ValidationError as error:
        raise InvalidImport(field_problems(error, sent)) from None
