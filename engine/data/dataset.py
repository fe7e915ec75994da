"""A labelled image data set: three splits that share no image, and the facts needed to use them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.data.images import Images


@dataclass(frozen=True, eq=False)
class Split:
    """N labelled images. Compared by identity; compare the tensors where equality matters."""

    images: Images
    """uint8 [N, C, H, W]: in memory, or read from a file as they are asked for."""
    labels: Tensor
    """int64 [N], from 0; -1 where nobody labelled the image."""
    ids: Tensor
    """int64 [N]: the row of each image in its source. No id occurs in two splits of one data set."""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """The same split with its tensors on `device`; images that are read from a file stay there."""
        return Split(images=self.images.to(device), labels=self.labels.to(device), ids=self.ids.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready for training. Square images of one size."""

    name: str
    classes: tuple[str, ...]
    """K class names, in the order of the labels."""
    channels: int
    image_size: int
    """Side of every image in pixels."""
    mean: tuple[float, ...]
    """Mean of each channel over the training split, of pixel values divided by 255."""
    std: tuple[float, ...]
    """Standard deviation of each channel over the training split, likewise; 1 where a channel is constant."""
    train: Split
    validation: Split
    """For choosing the best epoch."""
    test: Split
    """For the one evaluation at the end; nothing else reads it."""
    sha256: str
    """Hash of class names, pixels, labels and membership of the splits."""
    notes: tuple[str, ...]
    """What was decided while loading: how splits were drawn, how images were cropped and resized."""
    unlabelled: Split | None = None
    """More images for a student whose teacher labels them."""

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set with every split on `device`."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
            unlabelled=None if self.unlabelled is None else self.unlabelled.to(device),
        )
