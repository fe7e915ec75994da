"""Programs and pickles that would leave a marker file, were they run or loaded as they are meant to be."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

MARKER = "DISTILLERY_MARKER"


class Payload:
    """Unpickled, it would write the marker file."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f'touch "${MARKER}"',)


def programs() -> dict[str, bytes]:
    """Programs of several systems, by name."""
    script = f'#!/bin/sh\ntouch "${MARKER}"\n'.encode()
    return {
        "elf": b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 3, 62, 1) + bytes(100),
        "windows": b"MZ\x90\0" + bytes(60) + b"PE\0\0" + bytes(60),
        "macos": b"\xcf\xfa\xed\xfe" + bytes(60),
        "script": script,
        "wasm": b"\0asm\1\0\0\0" + bytes(20),
        "java": b"\xca\xfe\xba\xbe\0\0\0\x37" + bytes(20),
    }


def torch_zip(*names: str) -> bytes:
    """A zip as torch.save writes, whose pickle is a payload."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Payload(), 2))
        for name in names:
            archive.writestr(name, b"x")
    return held.getvalue()
