"""What the loop learns, what it tells, and when it refuses to go on."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from distillery.errors import InvalidRequest, TrainingDiverged
from distillery.spec.objectives import CrossEntropyTerm, SoftTargetsTerm
from distillery.spec.presets import PRESETS
from distillery.spec.training import CheckpointEvery, Sgd, Training
from engine.loop import LOGS_PER_EPOCH, Stopped, train
from engine.objectives import Objective, build
from engine.optim import schedule
from engine.shares import dead_terms
from engine.strategies.offline import Offline
from engine.teachers import FrozenTeacher

LABELS = (CrossEntropyTerm(weight=1.0),)
STEPS = 5
"""Of an epoch over 70 images in batches of 16."""


def recipe(**changes):
    return Training(**({"epochs": 3, "batch_size": 16, "seed": 5, "device": "cpu", "precision": "fp32"} | changes))


@pytest.fixture
def run(small_dataset, small_network, listener):
    """Trains the small network; what is not said is as plain as can be."""

    def start(*, terms=LABELS, teacher=None, observer=None, network=None, dataset=small_dataset, augment=(), **changes):
        return train(
            Offline(network or small_network(), objective=build(terms), teacher=teacher),
            dataset=dataset,
            recipe=recipe(**changes),
            augment=augment,
            observer=observer or listener(),
        )

    return start


def curves(trained):
    """All that is logged save for the speed."""
    return {name: curve for name, curve in trained.history.items() if name != "images_per_second"}


def content(weights):
    return {name: each.numpy().tobytes() for name, each in weights.items()}


def test_it_learns_from_labels(run):
    trained = run(epochs=40, optimizer="adamw")
    assert trained.best_validation > 0.9
    assert trained.history["loss"][-1][1] < trained.history["loss"][0][1] / 3


def test_a_student_learns_from_its_teacher_alone(run, small_network, small_dataset):
    network = small_network(seed=1)
    run(network=network, epochs=40, optimizer="adamw")
    trained = run(terms=(SoftTargetsTerm(weight=1.0),), teacher=FrozenTeacher(network), epochs=40, optimizer="adamw")
    assert trained.best_validation > 0.9


def test_each_term_is_told_raw_and_weighted(run, small_network):
    trained = run(terms=PRESETS["kd"], teacher=FrozenTeacher(small_network(seed=1)))
    told = curves(trained)
    terms = {"cross_entropy": 0.1, "soft_targets": 0.9}
    assert told.keys() == {
        *(f"{kind}/{name}" for kind in ("loss", "weighted", "share") for name in terms),
        *("loss", "lr", "grad_norm", "validation/accuracy"),
    }
    for place, (step, loss) in enumerate(told["loss"]):
        weighted = [told[f"weighted/{name}"][place] for name in terms]
        assert {at for at, _ in weighted} == {step}
        assert sum(value for _, value in weighted) == pytest.approx(loss, rel=1e-6)
        for name, weight in terms.items():
            assert told[f"weighted/{name}"][place][1] == weight * told[f"loss/{name}"][place][1]


def test_without_a_teacher_the_terms_that_need_one_are_left_out(run):
    assert curves(run(terms=PRESETS["kd"])).keys() == {
        *("loss/cross_entropy", "weighted/cross_entropy"),
        *("loss", "lr", "grad_norm", "validation/accuracy"),
    }
    with pytest.raises(InvalidRequest, match="teacher"):
        run(terms=(SoftTargetsTerm(),))


@pytest.mark.parametrize(("batch_size", "steps"), [(16, 5), (2, 35), (1, 70), (70, 1), (1000, 1)])
def test_values_are_told_at_fixed_steps_and_at_the_end_of_each_epoch(run, batch_size, steps):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    trained = run(network=network, batch_size=batch_size, epochs=2, optimizer=Sgd(lr=0.01))
    every = math.ceil(steps / LOGS_PER_EPOCH)
    first = [step for step in range(1, steps + 1) if step % every == 0 or step == steps]
    assert [step for step, _ in trained.history["loss"]] == first + [steps + step for step in first]
    assert [step for step, _ in trained.history["validation/accuracy"]] == [steps, 2 * steps]
    assert trained.steps == 2 * steps


@pytest.mark.parametrize(
    ("batch_size", "epochs", "looks"),
    [(16, 12, [3, 28, 53, 60]), (2, 3, [18, 53, 88, 105]), (1, 2, [35, 70, 105, 140]), (70, 30, [1, 26, 30])],
)
def test_the_shares_are_looked_at_twice_an_epoch_and_25_steps_apart(run, small_network, batch_size, epochs, looks):
    teacher = FrozenTeacher(small_network(seed=1))
    trained = run(terms=PRESETS["kd"], teacher=teacher, batch_size=batch_size, epochs=epochs, optimizer=Sgd(lr=0.001))
    assert [step for step, _ in trained.history["share/soft_targets"]] == looks


@pytest.mark.parametrize(
    ("curve", "dead"),
    [
        ([(2, 0.0)], []),
        ([(2, 0.0), (27, 0.0)], ["hint"]),
        ([(2, 0.5), (27, 0.0)], []),
        ([(2, 0.5), (27, 0.0), (52, 0.0009)], ["hint"]),
        ([(40, 0.5), (45, 0.0), (52, 0.0)], []),
    ],
)
def test_a_term_is_dead_by_all_looks_of_an_epoch_and_at_least_by_two(curve, dead):
    assert list(dead_terms({"share/hint": curve, "loss": [(1, 0.0), (2, 0.0)]}, since=30)) == dead


def test_the_loss_told_is_the_mean_over_the_steps_since_the_last_one(run):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    torch.nn.init.zeros_(network[1].weight)
    torch.nn.init.zeros_(network[1].bias)
    trained = run(network=network, batch_size=2, epochs=1, optimizer=Sgd(lr=1e-9, momentum=0))
    assert [value for _, value in trained.history["loss"]] == [pytest.approx(math.log(3), abs=1e-5)] * 9


def test_the_observer_is_told_what_the_history_holds(run, listener):
    observer = listener()
    trained = run(observer=observer)
    assert observer.series == trained.history


def test_the_rate_told_is_the_rate_of_the_schedule(run):
    trained = run(schedule={"name": "cosine", "warmup_epochs": 1}, optimizer=Sgd(lr=0.03))
    factor = schedule(recipe(schedule={"name": "cosine", "warmup_epochs": 1}).schedule, steps_per_epoch=5, epochs=3)
    assert trained.history["lr"] == [(step + 1, 0.03 * factor(step)) for step in range(15)]


def test_equal_seeds_give_equal_runs_whatever_came_before(run):
    first = run(augment=("crop", "flip"))
    torch.manual_seed(999)
    second = run(augment=("crop", "flip"))
    other = run(augment=("crop", "flip"), seed=6)
    assert content(first.last) == content(second.last)
    assert content(first.last) != content(other.last)
    assert curves(first) == curves(second)


def test_saving_often_changes_nothing(run, listener):
    often = listener()
    busy = run(observer=often, checkpoint_every=CheckpointEvery(seconds=1e-9))
    calm = run(checkpoint_every=CheckpointEvery(epochs=3))
    assert [state["step"] for state in often.states] == list(range(1, 16))
    assert content(busy.last) == content(calm.last)
    assert curves(busy) == curves(calm)


def test_it_saves_at_the_end_of_every_so_many_epochs_and_at_the_end(run, listener):
    observer = listener()
    run(observer=observer, epochs=5, checkpoint_every=CheckpointEvery(epochs=2))
    assert [state["step"] for state in observer.states] == [10, 20, 25]


def test_the_best_epoch_is_the_first_of_the_best(run):
    trained = run(epochs=8, optimizer=Sgd(lr=0.05))
    accuracies = [value for _, value in trained.history["validation/accuracy"]]
    assert trained.best_validation == max(accuracies)
    assert trained.best_epoch == accuracies.index(max(accuracies)) + 1
    assert trained.last_validation == accuracies[-1]


def test_of_equal_epochs_the_first_wins(run, small_network):
    trained = run(
        epochs=4, optimizer=Sgd(lr=1e-9, weight_decay=0), network=nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    )
    assert len({value for _, value in trained.history["validation/accuracy"]}) == 1
    assert trained.best_epoch == 1


def test_the_best_weights_are_those_of_the_best_epoch(run, small_network, small_dataset):
    long = run(epochs=8, schedule="constant")
    short = run(epochs=long.best_epoch, schedule="constant")
    assert content(long.best) == content(short.last)
    assert all(each.is_contiguous() and each.device.type == "cpu" for each in long.best.values())


def test_the_test_split_is_never_read(run, small_dataset):
    hidden = replace(small_dataset, test=small_dataset.validation)
    assert content(run(dataset=hidden).best) == content(run().best)


def test_clipping_bounds_a_step(run, small_network):
    network = small_network()
    before = [each.detach().clone() for each in network.parameters()]
    plain = Sgd(lr=1.0, momentum=0, weight_decay=0)
    trained = run(network=network, epochs=1, batch_size=70, optimizer=plain, clip_grad_norm=0.01)
    moved = [float((each.detach() - old).norm()) for each, old in zip(network.parameters(), before, strict=True)]
    assert math.hypot(*moved) == pytest.approx(0.01, rel=1e-3)
    ((_, norm),) = trained.history["grad_norm"]
    assert norm > 0.01


def test_a_network_without_convolutions_trains(run):
    assert run(network=nn.Sequential(nn.Flatten(), nn.Linear(64, 3))).steps == 15


def test_in_bf16_the_weights_stay_in_single_precision_and_it_learns(run):
    trained = run(precision="bf16", epochs=40, optimizer="adamw")
    assert trained.best_validation > 0.9
    assert {each.dtype for each in trained.best.values()} == {torch.float32, torch.int64}


def test_what_an_objective_trains_is_trained_and_saved(small_dataset, small_network, listener):
    class Scaled(nn.Module):
        name, needs_teacher = "scaled", False

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, student, teacher, batch):
            return {self.name: nn.functional.cross_entropy(self.scale * student.logits, batch.labels)}

    observer = listener()
    objective = Objective([Scaled()], weights={"scaled": 1.0})
    trained = train(
        Offline(small_network(), objective=objective, teacher=None),
        dataset=small_dataset,
        recipe=recipe(epochs=1),
        augment=(),
        observer=observer,
    )
    assert float(objective.terms[0].scale.detach()) != 1.0
    assert torch.equal(observer.states[-1]["objective"]["terms.0.scale"], objective.terms[0].scale)
    assert len(observer.states[-1]["optimizer"]["param_groups"][0]["params"]) == 8
    assert trained.best.keys() == small_network().state_dict().keys()


def test_progress_counts_up_to_the_end(run, listener):
    observer = listener()
    run(observer=observer)
    assert observer.told[0] == {"step": 0, "total_steps": 15, "epoch": 1, "epochs": 3, "images_per_second": None}
    last = observer.told[-1]
    assert (last["step"], last["total_steps"], last["epoch"], last["epochs"]) == (15, 15, 3, 3)
    assert last["images_per_second"] > 0


def test_the_run_tells_its_speed(run):
    trained = run()
    assert trained.seconds > 0
    assert trained.images_per_second > 3 * 70 / trained.seconds
    assert len(trained.history["images_per_second"]) == 3


def test_a_recipe_without_a_seed_is_refused(run):
    with pytest.raises(InvalidRequest, match="seed"):
        run(seed=None)


class ReadsOfTheDevice(TorchDispatchMode):
    """Counts the operations that make a device wait for the host."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_device_is_not_read_at_every_step(run, clip):
    def reads(batch_size):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        with ReadsOfTheDevice() as reading:
            run(network=network, batch_size=batch_size, epochs=1, clip_grad_norm=clip)
        return reading.count

    assert reads(1) == reads(7)  # 70 steps and 10 steps, told ten times each


class SpoiltAt(nn.Module):
    """Passes its input on, and from a given training step on spoils it."""

    def __init__(self, step, value=math.nan):
        super().__init__()
        self.step, self.value, self.seen = step, value, 0

    def forward(self, x):
        self.seen += self.training
        return x * self.value if self.seen >= self.step and self.training else x


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 4, 7, 15])
def test_losses_that_are_never_finite_again_end_the_run_and_name_the_step(run, listener, step, value):
    observer = listener()
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), SpoiltAt(step, value))
    with pytest.raises(TrainingDiverged, match=rf"step {step} \(epoch {(step - 1) // STEPS + 1} of 6\)") as caught:
        run(network=network, observer=observer, epochs=6, checkpoint_every=CheckpointEvery(seconds=1e-9))
    assert "training.optimizer.lr" in caught.value.hint
    assert all(bool(each.isfinite().all()) for state in observer.states for each in state["network"].values())


def test_between_two_told_values_the_very_step_is_named(run):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), SpoiltAt(52))
    with pytest.raises(TrainingDiverged, match="step 52"):
        run(network=network, batch_size=1)


class Overflowing(nn.Module):
    """Answers and gradients are finite, and still the first step makes an infinite weight."""

    def __init__(self):
        super().__init__()
        self.huge = nn.Parameter(torch.full((1,), 3e38))
        self.huge.register_hook(lambda gradient: torch.full_like(gradient, -1e38))

    def forward(self, x):
        return x + (self.huge - self.huge.detach())


@pytest.mark.parametrize("batch_size", [16, 70])
def test_weights_that_are_not_finite_are_never_handed_out_though_the_loss_was(run, listener, batch_size):
    observer = listener(stop_when=lambda looks: True)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), Overflowing())
    with pytest.raises(TrainingDiverged, match="a weight was not finite at step 1"):
        run(network=network, observer=observer, batch_size=batch_size, optimizer=Sgd(lr=10, weight_decay=0))
    assert observer.states == []


@pytest.mark.parametrize("look", [1, 3, 5])
def test_asked_to_stop_it_saves_and_leaves(run, listener, look):
    observer = listener(stop_when=lambda looks: looks == look)
    with pytest.raises(Stopped):
        run(observer=observer)
    assert [state["step"] for state in observer.states] == [look]


def test_it_can_be_stopped_during_validation(run, listener, small_dataset, monkeypatch):
    monkeypatch.setattr("engine.loop.VALIDATION_IMAGES", 10)
    observer = listener(stop_when=lambda looks: looks == STEPS + 3)
    with pytest.raises(Stopped):
        run(observer=observer)
    assert [(state["step"], state["epoch"], state["batch"]) for state in observer.states] == [(5, 0, 5)]
    assert "validation/accuracy" not in observer.series
