"""What a job may take, from the catalogue alone: rough figures with honest intervals, since no device is known yet."""

from app import networks
from app.known_data import Images, known_images, known_side
from app.workload import Run, multiply_adds, runs, side_of, training_multiply_adds
from distillery.spec import JobSpec
from distillery.spec.methods import DataFreeMethod, Fast, SelfDistillationMethod
from distillery.spec.objectives import CrdTerm
from distillery.views import Estimate, Interval
from models import catalog

FASTEST, SLOWEST = 2e12, 5e9
"""Multiply-adds a second that one may get: a large accelerator in bf16, one busy core in fp32."""
FASTEST_STEP_SECONDS, SLOWEST_STEP_SECONDS = 0.002, 0.1
"""What a step costs besides its arithmetic."""
STARTING_SECONDS = (8.0, 60.0)
COMPARISON_SECONDS = (5.0, 45.0)
"""One runtime, batch size and device of the latency protocol."""
RUNTIME_BYTES = (300_000_000, 1_500_000_000)
"""The interpreter, PyTorch and its buffers."""
MACS_PER_ACTIVATION = (400.0, 15.0)
"""Multiply-adds for each number that the backward pass keeps: wide networks reuse more."""
CRD_BYTES = 80
"""Of each sample with each of its negatives: the place of the negative, and a dozen numbers for the gradient."""
_FLOAT_BYTES = 4
_MOMENTS = 2
"""Numbers that an optimizer keeps for each parameter, at most."""
_COLOURS = 3


def estimate(spec: JobSpec) -> Estimate:
    """Seconds, memory and artifact bytes that the job may take, each as an interval."""
    images = known_images(spec)
    timed = images
    if images is None and isinstance(spec.method, DataFreeMethod):
        timed = Images(train=0, held_back=0, side=side_of(spec))
    return Estimate(
        seconds=_seconds(spec, timed) if timed else None,
        memory_bytes=_memory(spec),
        artifact_bytes=_artifacts(spec),
        notes=tuple(_notes(spec, images)),
    )


def _notes(spec: JobSpec, images: Images | None) -> list[str]:
    notes = []
    data_free = isinstance(spec.method, DataFreeMethod)
    if images is None and data_free:
        notes.append("The final test is not counted: how many images there are, only the worker can see.")
    elif images is None:
        notes.append("The time is not known: how many images there are, only the worker can see.")
    if known_side(spec) is None:
        notes.append("The size of the images is not known; memory is told for the student's native input.")
    if spec.seeds > 1:
        who = "student and baseline are" if spec.baseline else "the student is"
        notes.append(f"With {spec.seeds} seeds {who} trained {spec.seeds} times, all else once.")
    if data_free:
        notes.append("What it takes to make images up is a rough guess.")
    if any(networks.unseen(each) for each in spec.teachers):
        notes.append("What the teacher takes is not counted: nobody can see into it.")
    notes.append("Parameters and multiply-adds are those for ten classes.")
    return notes


def _seconds(spec: JobSpec, images: Images) -> Interval:
    work, steps = 0.0, 0
    for run in runs(spec, train_images=images.train):
        work += training_multiply_adds(spec, run)
        steps += run.steps
        # After each epoch on the validation images, at the end on those of the test.
        seen = run.times * (run.epochs + 1) * images.held_back
        work += seen * sum(multiply_adds(spec, each) for each in run.learners)
    low = work / FASTEST + steps * FASTEST_STEP_SECONDS + STARTING_SECONDS[0]
    high = work / SLOWEST + steps * SLOWEST_STEP_SECONDS + STARTING_SECONDS[1]
    rows = _comparisons(spec)
    return Interval(low=low + rows * COMPARISON_SECONDS[0], high=high + rows * COMPARISON_SECONDS[1])


def _comparisons(spec: JobSpec) -> int:
    """The student against the teacher, or, where there is none, each early exit against the student."""
    asked = spec.latency
    if asked is None:
        return 0
    pairs = 1 if spec.teachers else _exits(spec)
    return pairs * (len(asked.comparisons) + asked.scenario_pairs)


def _exits(spec: JobSpec) -> int:
    method = spec.method
    delivered = isinstance(method, SelfDistillationMethod) and method.deliver_exits
    return len(catalog.find(spec.student.architecture).stages) - 1 if delivered else 0


def _parameters(*architectures: str) -> int:
    return sum(catalog.find(each).parameters for each in architectures)


def _parameters_of_all(spec: JobSpec) -> int:
    return sum(each.row.parameters for each in networks.of(spec))


def _memory(spec: JobSpec) -> Interval:
    planned = runs(spec, train_images=0)
    trained = max(_parameters(*run.learners) for run in planned)
    # Weights, gradients and the moments of what is trained; the weights of all others beside them.
    weights = _FLOAT_BYTES * ((2 + _MOMENTS) * trained + _parameters_of_all(spec))
    numbers = max(_kept(spec, run) for run in planned)
    low, high = (
        start + weights + _remembered(spec) + _FLOAT_BYTES * numbers / ratio
        for start, ratio in zip(RUNTIME_BYTES, MACS_PER_ACTIVATION, strict=True)
    )
    return Interval(low=low, high=high)


def _kept(spec: JobSpec, run: Run) -> float:
    """Multiply-adds of a batch, by which the numbers that its backward pass keeps are told."""
    return run.batch_size * sum(multiply_adds(spec, each) for each in run.learners)


def _remembered(spec: JobSpec) -> int:
    """Bytes of what terms and made-up images take besides the networks."""
    total = sum(crd_bytes(spec, term) for term in spec.method.terms if isinstance(term, CrdTerm))
    method = spec.method
    if isinstance(method, DataFreeMethod) and isinstance(method.synthesis, Fast):
        total += method.synthesis.pool * _COLOURS * side_of(spec) ** 2
    return total


def crd_bytes(spec: JobSpec, term: CrdTerm) -> int:
    """What a step of this term takes: two banks of every training image, and each sample against its negatives."""
    images = known_images(spec)
    banks = 2 * (images.train if images else 0) * term.dimensions * _FLOAT_BYTES
    return banks + spec.training.batch_size * term.negatives * CRD_BYTES


def _artifacts(spec: JobSpec) -> Interval:
    student, planned = _parameters(spec.student.architecture), runs(spec, train_images=0)
    low = student * sum(1 if form == "onnx-int8" else _FLOAT_BYTES for form in spec.export)
    others = _parameters_of_all(spec) + (student if spec.baseline else 0) + _exits(spec) * student
    # A checkpoint holds weights, the best so far and the moments of what is trained, and of what has been trained the
    # best and the last weights.
    trained = [_parameters(*run.learners) for run in planned]
    finished = sum(run.times * count for run, count in zip(planned, trained, strict=True))
    state = _FLOAT_BYTES * ((2 + _MOMENTS) * max(trained) + 2 * finished)
    return Interval(low=low, high=low + _FLOAT_BYTES * others + spec.training.keep * state + 10_000_000)
