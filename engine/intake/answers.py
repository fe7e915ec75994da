"""Tables of answers that were computed elsewhere, read from npz or parquet without torch.

`ids` [N]: numbers of samples, or the names of their members. Beside them `logits` [N, K], `probabilities` [N, K], or
the `indices` and `values` [N, k] of the top k.
"""

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from distillery.errors import DistilleryError, HostileFile, MissingDependency, UnusableWeights

ARRAYS = ("ids", "logits", "probabilities", "indices", "values")
MOST_BYTES = 16 << 30
MOST_MEMBERS = 16
MOST_COLUMNS = 100_000
MOST_NAME_BYTES = 4096
MOST_RATIO = 200
"""Of a member of an npz: its size unpacked over its size packed."""
_CHUNK = 1 << 20
_ROUNDING = 1e-3
_EXPECTED = (
    "A table holds 'ids' [N], and 'logits' [N, K], 'probabilities' [N, K], or 'indices' and 'values' [N, k] of the "
    "top k."
)
_WHERE = "/uploads"


@dataclass(frozen=True, eq=False)
class Answers:
    """N answers. Either `ids` or `names` tells whose."""

    ids: NDArray[np.int64]
    """[N]; empty where the samples are told by name."""
    names: tuple[str, ...] | None
    values: NDArray[np.float32]
    """[N, K], or [N, k] of the top k."""
    indices: NDArray[np.int64] | None
    """[N, k]: which classes the top k are; None of whole answers."""
    kind: Literal["logits", "probabilities"]
    """As the name of the array tells, or the numbers of `values`."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def classes(self) -> int | None:
        """K; None of the top k, which do not tell."""
        return None if self.indices is not None else int(self.values.shape[1])

    @property
    def most_class(self) -> int:
        """The largest class that is named."""
        return int(self.indices.max()) if self.indices is not None else int(self.values.shape[1]) - 1


def read(path: Path) -> Answers:
    """The table in a file; npz and parquet are told apart by content.

    Raises:
        HostileFile: reading it would do harm: it unfolds, lies about its arrays, or holds Python objects.
        UnusableWeights: it is missing or damaged, or is no table of answers.
        MissingDependency: parquet, and pyarrow is not installed.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
        arrays = _of_parquet(path) if head == b"PAR1" else _of_npz(path)
        return _answers(arrays)
    except DistilleryError:
        raise
    except MemoryError:
        raise _hostile("it unfolds to more than there is memory") from None
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, RuntimeError) as error:
        raise _unusable(f"it is damaged, or neither npz nor parquet ({str(error)[:150]})") from None
    except Exception as error:  # zlib.error, pyarrow's errors and struct.error have no common root
        raise _unusable(f"it is damaged ({str(error)[:150]})") from None


def packed(table: Answers) -> bytes:
    """A table as npz, with numbers for ids; equal tables give equal bytes."""
    arrays: dict[str, NDArray[Any]] = {"ids": table.ids}
    if table.indices is None:
        arrays[table.kind] = table.values
    else:
        arrays |= {"indices": table.indices.astype(np.int32), "values": table.values}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _of_npz(path: Path) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [each.filename for each in members]
        if len(members) > MOST_MEMBERS or len(set(names)) != len(names):
            raise _hostile(f"it has {len(members):,} members, or one of them twice")
        _require_apart(members)
        wanted = [each for each in members if each.filename.removesuffix(".npy") in ARRAYS]
        return {each.filename.removesuffix(".npy"): _array(archive, each) for each in wanted}


def _require_apart(members: list[zipfile.ZipInfo]) -> None:
    """No member lies in another, and none unfolds without measure."""
    at = 0
    for each in sorted(members, key=lambda member: member.header_offset):
        if each.header_offset < at:
            raise _hostile("its members overlap")
        at = each.header_offset + each.compress_size
        if each.flag_bits & 1 or each.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _unusable(f"'{each.filename[:80]}' is encrypted, or packed in an unusual way")
        if each.file_size > MOST_RATIO * max(each.compress_size, 1_000) or each.file_size > MOST_BYTES:
            raise _hostile(f"'{each.filename[:80]}' unfolds from {each.compress_size:,} to {each.file_size:,} bytes")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    name = member.filename[:80]
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version > (2, 0):
            raise _unusable(f"'{name}' has named fields")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
        if dtype.hasobject:
            raise _hostile(f"'{name}' holds Python objects, which could run code when they are read")
        if dtype.kind not in "iufUS" or dtype.itemsize > MOST_NAME_BYTES or len(shape) not in (1, 2):
            raise _unusable(f"'{name}' is an array {list(shape)[:8]} of {str(dtype)[:40]}")
        count = math.prod(shape)
        promised, held = count * dtype.itemsize, member.file_size - stream.tell()
        if min(shape) < 0 or promised != held:
            raise _hostile(f"'{name}' promises {promised:,} bytes and holds {held:,}")
        content = _exactly(stream, promised, name)
    array = np.frombuffer(content, dtype=dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _exactly(stream: Any, size: int, name: str) -> bytearray:
    content = bytearray()
    while len(content) < size:
        piece = stream.read(min(_CHUNK, size - len(content)))
        if not piece:
            raise _hostile(f"'{name}' ends after {len(content):,} of {size:,} bytes")
        content += piece
    return content


def _of_parquet(path: Path) -> dict[str, NDArray[Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingDependency("Reading parquet needs pyarrow.", hint="pip install pyarrow") from None
    with path.open("rb") as file:
        _require_tail(file)
        table = parquet.ParquetFile(file, thrift_string_size_limit=1 << 20, thrift_container_size_limit=1 << 20)
        told = table.metadata
        columns = [name for name in table.schema_arrow.names if name in ARRAYS]
        if told.num_columns > MOST_COLUMNS or len(set(table.schema_arrow.names)) != len(table.schema_arrow.names):
            raise _hostile(f"it has {told.num_columns:,} columns, or one of them twice")
        size = path.stat().st_size
        unfolded = sum(told.row_group(place).total_byte_size for place in range(told.num_row_groups))
        if max(unfolded, told.num_rows) > MOST_RATIO * max(size, 10_000) or unfolded > MOST_BYTES:
            raise _hostile(f"it unfolds from {size:,} to {unfolded:,} bytes in {told.num_rows:,} rows")
        read = table.read(columns=columns, use_threads=False)
        return {name: _column(read.column(name).combine_chunks(), name) for name in columns}


def _require_tail(file: BinaryIO) -> None:
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    if tail[4:] != b"PAR1" or int.from_bytes(tail[:4], "little") > min(size, 64 << 20):
        raise _hostile("its footer lies about its length")
    file.seek(0)


def _column(column: Any, name: str) -> NDArray[Any]:
    import pyarrow as arrow

    if column.null_count:
        raise _unusable(f"'{name}' has {column.null_count:,} empty rows")
    kind = column.type
    if arrow.types.is_string(kind) or arrow.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=np.str_)
    if arrow.types.is_list(kind) or arrow.types.is_large_list(kind) or arrow.types.is_fixed_size_list(kind):
        inner = column.flatten()
        if len(column) == 0 or len(inner) % len(column):
            raise _unusable(f"the rows of '{name}' differ in length")
        width = len(inner) // len(column)
        if not arrow.types.is_fixed_size_list(kind) and column.value_lengths().unique().to_pylist() != [width]:
            raise _unusable(f"the rows of '{name}' differ in length")
        if inner.null_count or not (arrow.types.is_floating(inner.type) or arrow.types.is_integer(inner.type)):
            raise _unusable(f"'{name}' holds no numbers, or has gaps")
        return np.asarray(inner.to_numpy(zero_copy_only=False)).reshape(len(column), width)
    if arrow.types.is_integer(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    raise _unusable(f"the column '{name}' is of {str(kind)[:60]}")


def _answers(arrays: Mapping[str, NDArray[Any]]) -> Answers:
    given = [name for name in ("logits", "probabilities", "values") if name in arrays]
    if "ids" not in arrays or len(given) != 1 or ("values" in given) != ("indices" in arrays):
        found = ", ".join(f"'{name}'" for name in arrays) or "none of them"
        raise _unusable(f"it holds {found}")
    ids, values = arrays["ids"], arrays[given[0]]
    if values.ndim != 2 or values.dtype.kind not in "iuf" or not 1 <= values.shape[1] <= MOST_COLUMNS:
        raise _unusable(f"'{given[0]}' is an array {list(values.shape)} of {values.dtype}")
    if ids.ndim != 1 or len(ids) != len(values) or len(ids) == 0 or ids.dtype.kind not in "iuUS":
        raise _unusable(f"'ids' is an array {list(ids.shape)} of {ids.dtype}, for {len(values):,} rows of answers")
    if not bool(np.isfinite(values).all()):
        raise _unusable(f"'{given[0]}' holds values that are not finite")
    indices = arrays.get("indices")
    if indices is not None:
        _require_indices(indices, values)
    numbers, names = _ids(ids)
    shares = given[0] != "logits" and looks_like_shares(values, whole=indices is None)
    if given[0] == "probabilities" and not shares:
        raise _unusable("rows of 'probabilities' do not add up to 1")
    told = None if indices is None else indices.astype(np.int64)
    return Answers(numbers, names, values.astype(np.float32), told, "probabilities" if shares else "logits")


def looks_like_shares(values: NDArray[Any], *, whole: bool) -> bool:
    """Whether rows [N, K] are probabilities: none negative, and a sum of 1, or of 1 at most where others are left."""
    sums = values.astype(np.float64).sum(axis=1)
    within = sums <= 1 + _ROUNDING
    return bool((values >= 0).all() and (within & (sums >= 1 - _ROUNDING) if whole else within).all())


def _require_indices(indices: NDArray[Any], values: NDArray[Any]) -> None:
    if indices.shape != values.shape or indices.dtype.kind not in "iu":
        raise _unusable(
            f"'indices' is an array {list(indices.shape)} of {indices.dtype}, 'values' {list(values.shape)}"
        )
    if int(indices.min()) < 0 or int(indices.max()) >= MOST_COLUMNS:
        raise _unusable(f"'indices' run from {indices.min()} to {indices.max()}")
    ordered = np.sort(indices, axis=1)
    if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        raise _unusable("a row of 'indices' names one class twice")


def _ids(ids: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    if len(np.unique(ids)) != len(ids):
        raise _unusable("one sample stands in it twice")
    if ids.dtype.kind in "iu":
        if int(ids.max()) >= 2**63:
            raise _unusable(f"'ids' run up to {ids.max()}")
        return ids.astype(np.int64), None
    names = [each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in ids.tolist()]
    return np.empty(0, dtype=np.int64), tuple(names)


def _hostile(why: str) -> HostileFile:
    return HostileFile(f"The table of answers is not read: {why}.", hint=_EXPECTED, pointer=_WHERE)


def _unusable(why: str) -> UnusableWeights:
    return UnusableWeights(f"The file cannot be used as a table of answers: {why}.", hint=_EXPECTED, pointer=_WHERE)
