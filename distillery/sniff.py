"""What a file is, told by its content and never by its name.

`sniff` is a pure function over the first bytes and, of archives, the names inside; `sniff_file` reads those from a
file. Nothing is unpickled, unpacked or run: opcodes of pickles are only counted.
"""

import bz2
import contextlib
import itertools
import json
import lzma
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from distillery import zip_directory
from distillery.errors import DistilleryError
from distillery.pickle_signs import looks_pickled

HEAD_BYTES = 64 << 10
"""So many first bytes are enough for `sniff`; fewer make it less sure."""
_MOST_NAMES = 4_096
_MOST_LZMA_MEMORY = 64 << 20
_CONVERT = "Convert it on your own machine with: distillery models convert FILE"
_EXPORT = "Export the network to ONNX, or save its weights as safetensors, on your own machine."
_PROGRAM = "Programs are never taken. Send the data or the weights alone."

PICKLED = frozenset({"pickle", "joblib", "torch_zip", "torch_tar", "torch_legacy", "npy_pickled"})
"""Kinds that run code when they are loaded as they are meant to be."""
MODEL_PROGRAMS = frozenset({"torchscript", "torch_export", "torch_package", "torch_archive", "keras", "hdf5", "jar"})
"""Kinds of models that bring a program, or a loader that has been made to run one."""
PROGRAMS = frozenset({"elf", "pe", "macho", "script", "wasm", "class"})
ARCHIVES = frozenset({"zip", "tar", "gzip", "xz", "bzip2", "zstd", "7z", "rar", "npz", "polyglot"})
IMAGES = frozenset({"jpeg", "png", "webp"})
"""The images that are decoded."""
OTHER_IMAGES = frozenset({"gif", "tiff", "bmp", "psd", "fits", "eps", "ico", "heif", "jp2", "svg"})

_KINDS: dict[str, tuple[str, str]] = {
    "zip": ("a zip archive", ""),
    "tar": ("a tar archive", ""),
    "gzip": ("a gzip file", ""),
    "xz": ("an xz file", ""),
    "bzip2": ("a bzip2 file", ""),
    "zstd": ("a Zstandard file", "Pack it as zip, or as tar with gzip, instead."),
    "7z": ("a 7-Zip archive", "Pack it as zip, or as tar with gzip, instead."),
    "rar": ("a RAR archive", "Pack it as zip, or as tar with gzip, instead."),
    "polyglot": ("a zip archive with something else before it", "Write the archive again with a common tool."),
    "idx": ("an idx file", ""),
    "npz": ("a NumPy archive", ""),
    "npy": ("a NumPy array", "Store images and labels together with numpy.savez_compressed."),
    "npy_pickled": ("a NumPy array of pickled Python objects", "Store images as uint8 and labels as int64."),
    "parquet": ("a parquet file", ""),
    "arrow": ("an Arrow file", "Write it as parquet instead, with pyarrow.parquet.write_table."),
    "csv": ("a table of separated values", ""),
    "tsv": ("a table of tab-separated values", ""),
    "jsonl": ("lines of JSON", ""),
    "json": ("JSON", "Write one JSON object per line instead."),
    "text": ("text", ""),
    "utf16": ("text in UTF-16", "Save it as UTF-8."),
    "html": ("an HTML page", "This may be an error page in place of the file: fetch it again and look at it."),
    "lfs_pointer": ("a pointer of Git LFS, not the file itself", "Fetch the file itself with: git lfs pull"),
    "jpeg": ("a JPEG image", ""),
    "png": ("a PNG image", ""),
    "webp": ("a WebP image", ""),
    **{kind: (f"a {kind.upper()} image", "Convert it to PNG, JPEG or WebP.") for kind in sorted(OTHER_IMAGES)},
    "pdf": ("a PDF document", ""),
    "safetensors": ("a safetensors file", ""),
    "onnx": ("an ONNX model", ""),
    "tflite": ("a TensorFlow Lite model", _EXPORT),
    "hdf5": ("an HDF5 file, as Keras writes", _EXPORT),
    "keras": ("a Keras model", _EXPORT),
    "pickle": ("a pickle, which could run code when it is read", _CONVERT),
    "joblib": ("a joblib file, which is a pickle and could run code when it is read", _EXPORT),
    "torch_zip": ("a pickled PyTorch file, which could run code when it is read", _CONVERT),
    "torch_tar": ("a pickled PyTorch file of the oldest form, which could run code when it is read", _CONVERT),
    "torch_legacy": ("a pickled PyTorch file of an older form, which could run code when it is read", _CONVERT),
    "torchscript": ("a TorchScript program", _EXPORT),
    "torch_export": ("a program of torch.export", _EXPORT),
    "torch_package": ("a program of torch.package", _EXPORT),
    "torch_archive": ("a TorchServe archive, which holds a program", _EXPORT),
    "jar": ("a Java archive", _PROGRAM),
    "elf": ("a program for Linux", _PROGRAM),
    "pe": ("a program for Windows", _PROGRAM),
    "macho": ("a program for macOS", _PROGRAM),
    "script": ("a script", _PROGRAM),
    "wasm": ("a WebAssembly program", _PROGRAM),
    "class": ("a Java program", _PROGRAM),
    "empty": ("empty", "Send the file again."),
    "unknown": ("of no known format", ""),
}
KINDS = tuple(_KINDS)
"""Every answer that `sniff` can give."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"PAR1", "parquet"),
    (0, b"PARE", "parquet"),
    (0, b"ARROW1", "arrow"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"BZh", "bzip2"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07", "rar"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"PK\x07\x08", "zip"),
    (257, b"ustar", "tar"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (512, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (0, b"\x93NUMPY", "npy"),
    (0, b"GIF8", "gif"),
    (0, b"II*\x00", "tiff"),
    (0, b"MM\x00*", "tiff"),
    (0, b"II+\x00", "tiff"),
    (0, b"MM\x00+", "tiff"),
    (0, b"8BPS", "psd"),
    (0, b"SIMPLE  =", "fits"),
    (0, b"%!PS", "eps"),
    (0, b"\xc5\xd0\xd3\xc6", "eps"),
    (0, b"\x00\x00\x01\x00", "ico"),
    (0, b"\x00\x00\x00\x0cjP  ", "jp2"),
    (0, b"\xff\x4f\xff\x51", "jp2"),
    (4, b"ftyp", "heif"),
    (4, b"TFL3", "tflite"),
    (0, b"%PDF-", "pdf"),
    (0, b"\x7fELF", "elf"),
    (0, b"\xfe\xed\xfa\xce", "macho"),
    (0, b"\xfe\xed\xfa\xcf", "macho"),
    (0, b"\xce\xfa\xed\xfe", "macho"),
    (0, b"\xcf\xfa\xed\xfe", "macho"),
    (0, b"\xca\xfe\xba\xbe", "class"),
    (0, b"\x00asm", "wasm"),
    (0, b"#!", "script"),
    (0, b"version https://git-lfs", "lfs_pointer"),
    (0, b"\xff\xfe", "utf16"),
    (0, b"\xfe\xff", "utf16"),
)
_OBJECT_DTYPE = re.compile(rb"'descr':[^}]*'\|?O")
_PICKLE_NAMES = frozenset({"sys_info", "pickle", "tensors", "storages"})


def sniff(head: bytes, *, names: Sequence[str] = ()) -> str:
    """The kind of a file, one of `KINDS`, from its first bytes and, of zip and tar files, the names inside.

    A zip is told from what surrounds it by its names: where some are given and `head` is no zip's, it is `polyglot`.
    """
    if not head:
        return "empty"
    if head[8:12] == b"WEBP" and head[:4] == b"RIFF" and not names:
        return "webp"
    kind = next((kind for at, magic, kind in _MAGIC if head[at : at + len(magic)] == magic), None)
    if kind == "zip":
        return _zip_kind(names)
    if kind == "tar":
        return _tar_kind(head, names)
    if names:
        return "polyglot"
    if kind == "npy":
        return "npy_pickled" if _OBJECT_DTYPE.search(head[:1024]) else "npy"
    if kind is not None and kind in _INFLATERS:
        return _inside(head, kind)
    return kind or _without_magic(head)


def sniff_file(path: Path) -> str:
    """The kind of the file at `path`; of zip files, wherever in it they begin, the directory is looked at.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        size = file.seek(0, 2)
        names: list[str] = []
        # No zip, or one that whoever reads it will refuse with a better reason.
        with contextlib.suppress(DistilleryError):
            found = zip_directory.entries(file, zip_directory.find(file, size=size))
            names.extend(entry.name for entry in itertools.islice(found, _MOST_NAMES))
        file.seek(max(0, size - zip_directory.MOST_END_BYTES))
        ends = zip_directory.ends_as_zip(file.read(), size=size)
        prefixed = not head.startswith(b"PK") and (bool(names) or ends)
    return "polyglot" if prefixed else sniff(head, names=names)


def describe(kind: str) -> str:
    """The kind as the end of a sentence: 'a zip archive'."""
    return _KINDS[kind][0]


def advice(kind: str) -> str:
    """What the owner of a file of a refused kind can do; empty where nothing is to be said."""
    return _KINDS[kind][1]


def _zip_kind(names: Sequence[str]) -> str:
    files = [name for name in names if not name.endswith("/")]
    below_top = {name.partition("/")[2] or name for name in files} | set(files)
    deep = [f"/{name}" for name in files]
    rules: tuple[tuple[str, bool], ...] = (
        ("torch_package", any("/.data/extern_modules" in name or "/.data/python_version" in name for name in deep)),
        ("torch_export", bool(below_top & {"serialized_exported_program.json", "archive_format", "serialized_model"})),
        ("torch_export", any("/data/aotinductor/" in name or "/models/model.json" in name for name in deep)),
        ("torchscript", any(name.endswith("/constants.pkl") or "/code/" in name for name in deep) and _torch(deep)),
        ("torch_zip", _torch(deep)),
        ("torch_archive", any(name.startswith("/MAR-INF/") for name in deep)),
        ("keras", any(name.endswith("/model.weights.h5") for name in deep)),
        ("jar", any(name.startswith("/META-INF/MANIFEST.MF") for name in deep)),
        ("npz", bool(files) and all(name.endswith(".npy") and "/" not in name for name in files)),
    )
    return next((kind for kind, matches in rules if matches), "zip")


def _torch(deep_names: Sequence[str]) -> bool:
    return any(name.endswith("/data.pkl") for name in deep_names)


def _tar_kind(head: bytes, names: Sequence[str]) -> str:
    first = head[:100].partition(b"\0")[0].decode(errors="replace")
    found = {name.removeprefix("./").rstrip("/") for name in (*names, first)}
    return "torch_tar" if first in _PICKLE_NAMES or len(found & _PICKLE_NAMES) > 2 else "tar"


def _inside(head: bytes, outer: str) -> str:
    """The kind of a compressed file: that of its content where it is a pickle, else its own."""
    try:
        inner = sniff(_INFLATERS[outer](head))
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
        return outer
    return inner if inner in PICKLED else outer


def _inflated(head: bytes) -> bytes:
    return zlib.decompressobj(wbits=47).decompress(head, HEAD_BYTES)


_INFLATERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _inflated,
    "xz": lambda head: lzma.LZMADecompressor(memlimit=_MOST_LZMA_MEMORY).decompress(head, HEAD_BYTES),
    "bzip2": lambda head: bz2.BZ2Decompressor().decompress(head, HEAD_BYTES),
}


def _without_magic(head: bytes) -> str:
    tests: tuple[tuple[str, Callable[[bytes], bool]], ...] = (
        ("bmp", lambda head: head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"),
        ("pe", lambda head: head[:2] == b"MZ" and b"\0" in head[:64]),
        ("safetensors", _is_safetensors),
        ("idx", _is_idx),
        ("pickle", looks_pickled),
        ("onnx", _is_onnx),
    )
    kind = next((kind for kind, matches in tests if matches(head)), None)
    if kind == "pickle":
        return _pickle_kind(head)
    if kind is None and head[:1] == b"x" and (head[0] << 8 | head[1] if len(head) > 1 else 1) % 31 == 0:
        return _inside_zlib(head)
    return kind or _text_kind(head)


def _inside_zlib(head: bytes) -> str:
    try:
        inner = _inflated(head)
    except zlib.error:
        return _text_kind(head)
    return _pickle_kind(inner) if looks_pickled(inner) else "unknown"


def _pickle_kind(head: bytes) -> str:
    if b"joblib.numpy_pickle" in head or b"joblib\x8c\x0cnumpy_pickle" in head:
        return "joblib"
    return "torch_legacy" if head[2:14] == b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19" else "pickle"


def _is_safetensors(head: bytes) -> bool:
    """Whether JSON begins behind eight bytes of length, which may lie, but are not text."""
    begins = head[8:9] == b"{" and head[9:64].lstrip()[:1] in (b'"', b"}", b"")
    return begins and not all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head[:8])


def _is_idx(head: bytes) -> bool:
    return head[:2] == b"\0\0" and head[2:3] in (b"\x08", b"\x09", b"\x0b", b"\x0c", b"\x0d", b"\x0e") and (
        len(head) >= 4 and 1 <= head[3] <= 8
    )  # fmt: skip


def _is_onnx(head: bytes) -> bool:
    """Whether the head reads as fields of ONNX's ModelProto, the graph or the operator sets among them."""
    wires = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
    at, seen = 0, set[int]()
    while at < len(head):
        key, at = _varint(head, at)
        if wires.get(key >> 3) != key & 7:
            return False
        seen.add(key >> 3)
        value, at = _varint(head, at)
        if key >> 3 == 1 and not 0 < value < 100:
            return False
        at += value if key & 7 == 2 else 0
    return bool(seen & {7, 8}) and bool(seen & {1, 8})


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A protobuf number and the place behind it; a cut or overlong one is 0."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            return 0, at + 1
        value |= (content[at] & 127) << shift
        at += 1
        if content[at - 1] < 128:
            return value, at
    return 0, at


def _text_kind(head: bytes) -> str:
    content = head.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content or len(re.findall(rb"[\x01-\x08\x0e-\x1f]", content)) > len(content) // 50:
        return "unknown"
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        # Up to three bytes at the end may be the beginning of a character. Other encodings are left to the reader.
        text = content[: error.start].decode() if error.start >= len(content) - 3 else content.decode("latin-1")
    text = text.lstrip()
    first = text.partition("\n")[0]
    if text[:1] == "{":
        return "jsonl" if _is_object(first) or (len(first) == len(text) and text[1:2].strip() == '"') else "json"
    if text[:1] == "[":
        return "json"
    if re.match(r"<(!doctype html|html|\?xml|svg)", text, re.IGNORECASE):
        return "svg" if "<svg" in text[:1024] else "html"
    tabs, separators = first.count("\t"), max(first.count(","), first.count(";"))
    return "tsv" if tabs > separators else "csv" if separators else "text"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
