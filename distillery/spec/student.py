"""The network to be delivered."""

from typing import Literal

from distillery.spec.frozen import Frozen
from distillery.spec.teacher import ArchitectureName


class StudentSpec(Frozen):
    """A network of the catalogue and how it starts."""

    architecture: ArchitectureName
    init: Literal["random"] = "random"
    """`random`: fresh weights drawn from the training seed."""
