"""A network among others that were trained on images of another normalisation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Renormalised(nn.Module):
    """Takes images [B, C, H, W] normalised by `mean` and `std`, and gives them to `network` as it was trained on them:
    by `own_mean` and `own_std`. One multiply-add for each number."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        own_mean: Sequence[float],
        own_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.network = network
        given_mean, given_std, wanted_mean, wanted_std = (
            torch.tensor(tuple(each), dtype=torch.float64).reshape(1, -1, 1, 1)
            for each in (mean, std, own_mean, own_std)
        )
        self.register_buffer("scale", (given_std / wanted_std).float())
        self.register_buffer("shift", ((given_mean - wanted_mean) / wanted_std).float())

    def forward(self, images: Tensor) -> Tensor:
        """What the network answers: [B, K]."""
        answers: Tensor = self.network(images * self.scale + self.shift)
        return answers
