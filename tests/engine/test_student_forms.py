"""A compiled student learns what an eager one learns, keeps the names of its weights, and is compiled once."""

import pytest
import torch
from torch._dynamo.utils import counters

from distillery.errors import InvalidRequest, MissingDependency
from distillery.spec.objectives import HintTerm
from distillery.spec.presets import PRESETS
from distillery.spec.training import Training
from engine import student_forms
from engine.data.views import batches
from engine.fitting import Fitting, survey
from engine.loop import train
from engine.objectives import build as build_objective
from engine.strategies.offline import Offline
from engine.student_forms import LOSS_TOLERANCE, CompiledStudent, choose_student, demand
from engine.teachers import FrozenTeacher, state_sha256
from models import build

CPU = torch.device("cpu")
RECIPE = Training(
    epochs=10, batch_size=16, seed=3, device="cpu", precision="fp32", optimizer={"name": "sgd", "lr": 0.02}
)
"""Five steps an epoch, the last of six images: fifty steps, each of which is logged."""


def resnet(seed):
    torch.manual_seed(seed)
    return build("resnet8", classes=3, image_size=8, channels=1)


@pytest.fixture
def lesson(small_network):
    """A student under a teacher; `network` makes another student."""

    def made(network=None, **options):
        teacher = FrozenTeacher(small_network(seed=2, width=8))
        return Offline(
            network or small_network(seed=1), objective=build_objective(PRESETS["kd"]), teacher=teacher, **options
        )

    return made


@pytest.fixture
def batch(small_dataset):
    read = batches(
        small_dataset.train, batch_size=16, seed=3, epoch=0, augment=(), mean=small_dataset.mean,
        std=small_dataset.std, channels_last=True,
    )  # fmt: skip
    return next(read).images


def test_fifty_compiled_steps_are_fifty_eager_ones_within_the_tolerance(lesson, small_dataset, listener, small_network):
    """Batch normalisation in one network, dropout too in the other."""
    torch.compiler.reset()
    for count, make in enumerate((lambda: resnet(1), lambda: small_network(seed=1)), 1):
        losses, states = [], []
        counters.clear()
        for compiled in (False, True):
            taught, observer = lesson(make()), listener()
            if compiled:
                taught.ask_student_by(CompiledStudent(taught.network, size=16))
            trained = train(taught, dataset=small_dataset, recipe=RECIPE, augment=("crop", "flip"), observer=observer)
            losses.append(torch.tensor([value for _, value in observer.series["loss"]], dtype=torch.float64))
            states.append(trained.last)
        assert len(losses[0]) == 50
        difference = ((losses[1] - losses[0]).abs() / losses[0]).max()
        assert difference <= LOSS_TOLERANCE, f"network {count}"
        assert losses[0][-1] < losses[0][0], "it learned something in which a difference could show"
        assert states[0].keys() == states[1].keys() == make().state_dict().keys()
        assert counters["stats"]["unique_graphs"] == 1, "the last batch of an epoch, or validation, compiled it anew"


def test_on_and_off_are_taken_as_they_are_said(lesson, batch):
    taught = lesson()
    for wanted, name, form in (("on", "compiled", "compiled-fp32"), ("off", "eager", "eager-fp32")):
        found, choice = choose_student(taught, batch, steps=3, precision="fp32", wanted=wanted)
        assert (found, choice.form, choice.role) == (name, form, "student")
        assert "training.compile" in choice.reason
        assert isinstance(taught._ask, CompiledStudent) == (wanted == "on")


def test_a_short_run_is_not_compiled_and_says_why(lesson, batch, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("Something was compiled for a run that is too short.")

    monkeypatch.setattr(CompiledStudent, "__call__", refuse)
    taught = lesson()
    for steps, words in ((50, "too short"), (300, "compiling pays from")):
        name, choice = choose_student(taught, batch, steps=steps, precision="fp32", wanted="auto")
        assert name == "eager"
        assert words in choice.reason
        assert choice.tried == ()


def test_a_trial_times_both_and_leaves_the_network_as_it_was(lesson, batch, monkeypatch):
    monkeypatch.setattr(student_forms, "PAYS_TIMES", 0.0)
    taught = lesson()
    taught.prepare(CPU)
    before, random = state_sha256(taught.network), torch.get_rng_state()
    name, choice = choose_student(taught, batch, steps=10**6, precision="fp32", wanted="auto")
    (tried,) = choice.tried
    assert tried.speedup.low <= tried.speedup.median <= tried.speedup.high
    assert name == ("compiled" if tried.speedup.median >= 1.05 else "eager")
    assert choice.form == f"{name}-fp32"
    assert isinstance(taught._ask, CompiledStudent) == (name == "compiled")
    assert state_sha256(taught.network) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(each.grad is None for each in taught.network.parameters())


def test_what_does_not_compile_is_told_and_trained_eagerly(lesson, batch, monkeypatch, small_network):
    class Branches(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = small_network()

        def forward(self, images):
            return self.network(images) if float(images.detach().sum()) != 0.1 else images

    monkeypatch.setattr(student_forms, "PAYS_TIMES", 0.0)
    name, choice = choose_student(lesson(Branches()), batch, steps=10**6, precision="fp32", wanted="auto")
    assert name == "eager"
    assert "does not compile" in choice.reason
    assert choice.tried[0].refused


class Otherwise(torch.nn.Module):
    """Compiled it is another network than eagerly, as by a wrong kernel."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        logits = self.network(images)
        return 1.01 * logits if torch.compiler.is_compiling() else logits


@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_compiled_code_whose_gradient_is_another_one_is_not_used(lesson, batch, monkeypatch, small_network, wanted):
    monkeypatch.setattr(student_forms, "PAYS_TIMES", 0.0)
    taught = lesson(Otherwise(small_network(seed=1)))
    name, choice = choose_student(taught, batch, steps=10**6, precision="fp32", wanted=wanted)
    assert name == "eager"
    assert "its gradient is 2.0e-02 of its norm away" in choice.tried[0].refused
    assert taught._ask is taught.network


def test_a_student_whose_layers_are_read_is_never_compiled(small_network, batch):
    network, other = resnet(1), resnet(2)
    fitting = Fitting(*(survey(each, batch[:4], stages=("layer1", "layer2")) for each in (network, other)))
    objective = build_objective([HintTerm(weight=1.0)], [fitting])
    teacher = FrozenTeacher(other, layers=objective.teacher_layers())
    taught = Offline(network, objective=objective, teacher=teacher)
    name, choice = choose_student(taught, batch, steps=10**6, precision="fp32", wanted="auto")
    assert name == "eager"
    assert "reads its layers" in choice.reason
    with pytest.raises(InvalidRequest, match="reads its layers") as refused:
        demand(taught, CPU)
    assert refused.value.pointer == "/training/compile"
    assert "training.compile" in refused.value.hint
    with pytest.raises(ValueError, match="reads its layers"):
        taught.ask_student_by(CompiledStudent(network, size=16))


def test_without_a_compiler_auto_tells_and_on_refuses(lesson, batch, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    name, choice = choose_student(lesson(), batch, steps=10**6, precision="fp32", wanted="auto")
    assert name == "eager"
    assert "no-such-compiler" in choice.reason
    with pytest.raises(MissingDependency, match="no-such-compiler") as refused:
        demand(lesson(), CPU)
    assert refused.value.hint
