"""Where images that had to be made go: into memory where they fit comfortably, else into a scratch file on the disk."""

import mmap
import tempfile
from collections.abc import Iterable
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from distillery.errors import StorageFull
from engine.data.images import Images, MappedImages


def placed(portions: Iterable[Tensor], *, count: int, channels: int, size: int, in_memory: bool) -> Images:
    """`count` images that come in `portions`, uint8 [n, channels, size, size] each.

    A scratch file lies below `$TMPDIR`, has no name, and is gone when the process ends, however it ends.

    Raises:
        StorageFull: no space is left for the scratch file.
    """
    shape = (count, channels, size, size)
    if not in_memory:
        return _on_disk(portions, shape=shape)
    images, at = torch.empty(shape, dtype=torch.uint8), 0
    for some in portions:
        images[at : at + len(some)] = some
        at += len(some)
    return images


def _on_disk(portions: Iterable[Tensor], *, shape: tuple[int, ...]) -> MappedImages:
    with tempfile.TemporaryFile(prefix="distillery-") as file:
        for some in portions:
            try:
                file.write(some.contiguous().numpy().data)
            except OSError as error:
                _refuse(error, needed=int(np.prod(shape)))
        file.flush()
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    pixels = np.frombuffer(mapping, dtype=np.uint8).reshape(shape)
    return MappedImages(pixels, torch.arange(shape[0]), mapping=mapping)


def _refuse(error: OSError, *, needed: int) -> NoReturn:
    raise StorageFull(
        f"The resized images need {needed / 2**30:,.2f} GiB below {tempfile.gettempdir()}: {error.strerror}.",
        hint="Make space there, point TMPDIR at a larger disk, or set a smaller 'image_size' or a 'limit'.",
    ) from error
