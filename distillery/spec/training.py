"""The recipe of a training run: length, optimizer, schedule, precision, checkpoints."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distillery.spec.frozen import Frozen

Epochs = Annotated[int, Field(ge=1, le=10_000)]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
LearningRate = Annotated[float, Field(gt=0, le=10)]
WeightDecay = Annotated[float, Field(ge=0, le=1)]


class Sgd(Frozen):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    lr: LearningRate = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: WeightDecay = 5e-4
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "Sgd":
        if self.nesterov and self.momentum == 0:
            raise ValueError("'nesterov' needs a 'momentum' above 0. Give a momentum such as 0.9.")
        return self


class AdamW(Frozen):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    lr: LearningRate = 1e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: WeightDecay = 0.01


def _from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


_AnyOptimizer = Annotated[Sgd | AdamW, Field(discriminator="name")]
Optimizer = Annotated[
    _AnyOptimizer,
    BeforeValidator(_from_name, json_schema_input_type=_AnyOptimizer | Literal["sgd", "adamw"]),
]


class Warmup(Frozen):
    """What every schedule shares: a linear rise of the rate at the start."""

    warmup_epochs: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Epochs over which the learning rate rises linearly to its full value."""


class CosineSchedule(Warmup):
    """Half a cosine from the full rate down to zero at the last step."""

    name: Literal["cosine"] = "cosine"


class StepSchedule(Warmup):
    """The rate times `gamma` at each milestone."""

    name: Literal["step"] = "step"
    milestones: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(max_length=100)] = (0.625, 0.75, 0.875)
    """Where the rate drops, as shares of the whole run: 0.625 is epoch 150 of 240."""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1


class ConstantSchedule(Warmup):
    """The full rate to the end."""

    name: Literal["constant"] = "constant"


_AnySchedule = Annotated[CosineSchedule | StepSchedule | ConstantSchedule, Field(discriminator="name")]
Schedule = Annotated[
    _AnySchedule,
    BeforeValidator(_from_name, json_schema_input_type=_AnySchedule | Literal["cosine", "step", "constant"]),
]


class CheckpointEvery(Frozen):
    """Whichever comes first. Neither changes what is learned."""

    epochs: Epochs = 1
    seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0


class Training(Frozen):
    """The recipe, the same for the student and its baseline."""

    epochs: Epochs = 10
    batch_size: BatchSize = 128
    optimizer: Optimizer = Sgd()
    schedule: Schedule = CosineSchedule()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` takes bf16 where the device computes with it natively, else fp32. Losses are always computed in fp32."""
    clip_grad_norm: Annotated[float, Field(gt=0, le=1e6)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """None draws one; the resolved spec tells which."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of the trainer; None takes as many as there are cores that the trainer may use."""
    checkpoint_every: CheckpointEvery = CheckpointEvery()
    keep: Annotated[int, Field(ge=1, le=100)] = 3
    """How many checkpoints are kept; older ones are deleted."""


class TeacherTraining(Frozen):
    """How to train the teacher inside the job. What is left out is taken from `training`."""

    epochs: Epochs
    batch_size: BatchSize | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None
    clip_grad_norm: Annotated[float, Field(gt=0, le=1e6)] | None = None
