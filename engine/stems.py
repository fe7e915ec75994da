"""Networks whose first layers throw small images away, told before they are trained on them."""

from models import catalog
from models.catalog import Row
from models.torchvision_stems import SMALL_SIDE

_FAR_BELOW = 0.5
"""Of the native side: at half of it a quarter of the pixels are left."""
_NEAR = 1.5
"""Published weights still know images whose side differs by no more than this factor."""
_SHOWN = 3
_SEED = "seed_"
"""Networks of the demo."""


def warn_of_stem(name: str, *, role: str, image_size: int) -> str:
    """What comes of training `name` on images of this side, and what to choose instead; empty where it fits."""
    row = catalog.find(name)
    native = row.input[1]
    gentler = row.small_input and image_size <= SMALL_SIDE
    if gentler or native <= SMALL_SIDE or (image_size > SMALL_SIDE and image_size > _FAR_BELOW * native):
        return ""
    instead = ", ".join(alternatives(row, image_size=image_size))
    return (
        f"The {role} {name} was made for images of {native} pixels: its first layers scale them down so far that at "
        f"{image_size} pixels little is left to see, which costs much accuracy. Choose one for small images, such as "
        f"{instead}, or set 'image_size' of the dataset nearer to {native}."
    )


def alternatives(row: Row, *, image_size: int) -> tuple[str, ...]:
    """Networks of the catalogue that were made for small images, nearest to `row` in size first."""
    fit = [each for each in catalog.ROWS if each.input[1] <= SMALL_SIDE and each.smallest <= image_size]
    fit = [each for each in fit if not each.name.startswith(_SEED)]
    return tuple(
        each.name for each in sorted(fit, key=lambda each: (abs(each.parameters - row.parameters), each.name))[:_SHOWN]
    )


def warn_of_published(name: str, *, image_size: int) -> str:
    """What comes of published weights on images far from those they were trained on; empty where they are near."""
    native = catalog.find(name).input[1]
    if native / _NEAR <= image_size <= native * _NEAR:
        return ""
    return (
        f"The published weights of {name} were trained on images of {native} pixels and know things at that scale; at "
        f"{image_size} pixels they answer worse. Set 'image_size' of the dataset to {native}, or train the teacher."
    )
