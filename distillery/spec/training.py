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
    teacher_form: Literal[
        "auto", "eager", "folded", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16", "openvino-int8"
    ] = "auto"
    """How a frozen teacher that is asked for logits alone answers. `auto` times other forms of it than PyTorch's own at
    the start of a run that is long enough to pay for that, and takes the fastest whose answers are those of the float32
    teacher (mean KL at T = 4 of at most 1e-4 nats, at most 1e-2 on any image); the event `form` tells which, and a
    resumed run keeps it. Two runs of one seed may then choose differently: `eager` repeats a run bit for bit. A form
    that is named is taken untimed where it is as faithful, or else told as a warning and left."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether forward and backward pass of the network in training are compiled by torch.compile. `auto` tries it on
    the CPU, where the run is long enough to pay for a minute of compiling, and keeps it where it is faster by a
    twentieth; `on` compiles in any case, and is refused where the method reads layers of the student. A compiled loss
    curve follows the eager one in float32 within 1e-4 of itself over the first 50 steps."""
    clip_grad_norm: Annotated[float, Field(gt=0, le=1e6)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """None draws one; the resolved spec tells which."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of the trainer; None takes as many as the worker's environment says (`OMP_NUM_THREADS`), else as
    there are cores that the trainer may use."""
    teacher_answers: Literal["auto", "live", "cached", "packed"] = "auto"
    """Whether what a frozen teacher said of a view is kept on the worker's disk and read when the view comes again, in
    this job or another; rounded to 16 bits. `live` asks every time; `auto` keeps what there is room for; `cached`
    refuses a job whose answers cannot be kept, and so does `packed`, which of many classes keeps the 256 likeliest and
    one number for the others: smaller, and less faithful where the temperature is high."""
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
