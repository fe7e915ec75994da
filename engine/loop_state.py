"""Everything a training run needs to go on, as plain data."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

History = dict[str, list[tuple[int, float]]]
"""Curves by name: (optimizer steps done, value)."""


@dataclass
class LoopState:
    """Everything a run needs to go on."""

    network: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    learners: list[list[nn.Parameter]]
    """All that the optimizer trains, in the groups in which gradients are clipped."""
    device: torch.device
    layout: torch.memory_format
    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """Epochs done, their validation included."""
    batch: int = 0
    """Batches of the current epoch already learned from."""
    columns: tuple[str, ...] = ()
    window: list[Tensor] = field(default_factory=list)
    """The loss and its raw terms, one tensor named by `columns` for each step since the last logged one."""
    history: History = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_validation: float | None = None
    last_validation: float | None = None
    warned: tuple[str, ...] = ()
    """Terms of which the user has been told that they teach nothing."""
    skipped: tuple[int, ...] = ()
    """The steps that were left out because something in them was not finite, as far as the user has been told."""
    pardoned: int = 0
    """Steps up to this one are not held against the run: its learning rate was lowered after it."""
    learning_rate: float | None = None
    """That of the recipe; None in states that were saved before it was kept."""
    images: int = 0
    training_seconds: float = 0.0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Plain data and the live tensors, to be written before training goes on."""
        on_cuda = self.device.type == "cuda"
        return {
            **{name: getattr(self, name) for name in (*_PLAIN, *_LATER)},
            **{name: getattr(self, name).state_dict() for name in _STATEFUL},
            "window": torch.stack(self.window) if self.window else None,
            "history": {name: torch.tensor(curve, dtype=torch.float64) for name, curve in self.history.items()},
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if on_cuda else None,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take up the run exactly where `saved` left it, the random generators of the process included."""
        for name in _PLAIN:
            setattr(self, name, saved[name])
        for name in _LATER:
            setattr(self, name, saved.get(name, getattr(self, name)))
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(saved[name])
        self.window = [] if saved["window"] is None else list(saved["window"].to(self.device))
        self.history = {
            name: [(int(step), value) for step, value in curve.tolist()] for name, curve in saved["history"].items()
        }
        torch.set_rng_state(saved["rng"])
        if self.device.type == "cuda" and saved["cuda_rng"] is not None:
            torch.cuda.set_rng_state(saved["cuda_rng"], self.device)


_STATEFUL = ("network", "objective", "optimizer")
_PLAIN = (
    *("step", "epoch", "batch", "columns", "images", "training_seconds", "seconds"),
    *("best", "best_epoch", "best_validation", "last_validation", "warned"),
)
_LATER = ("skipped", "pardoned", "learning_rate")
"""Not in the states that were saved before steps could be left out."""
