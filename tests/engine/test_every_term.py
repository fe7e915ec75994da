"""What holds for every term, and so for the next one too: trained, clipped, saved, resumed, left out of the student."""

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from distillery.errors import InvalidRequest
from distillery.spec.methods import OfflineMethod
from distillery.spec.objectives import CrossEntropyTerm, LayerPair, Term
from distillery.spec.presets import PRESETS, spelled_out
from distillery.spec.training import Sgd, Training
from engine import checkpoint
from engine.data.dataset import Dataset
from engine.data.views import Batch, batches
from engine.fitting import Fitting, Surveyed, survey
from engine.loop import Stopped, train
from engine.micro_batches import parted
from engine.objectives import OBJECTIVES, build
from engine.strategies.offline import Offline
from engine.teachers import EnsembleTeacher, FrozenTeacher, state_sha256
from models import build as build_network
from models import catalog

TERMS: dict[str, Any] = {kind.model_fields["term"].default: kind for kind in get_args(get_args(Term)[0])}
SMALL: dict[str, dict[str, Any]] = {"crd": {"negatives": 32, "dimensions": 16}, "review": {"channels": 8}}
"""So that a test takes a moment; the weights are the defaults."""
RECIPE = Training(
    epochs=2,
    batch_size=16,
    seed=5,
    device="cpu",
    precision="fp32",
    optimizer=Sgd(lr=0.01),
    clip_grad_norm=1.0,
)
READERS = [name for name, kind in TERMS.items() if "pairs" in kind.model_fields]


def network(name: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_network(name, classes=3, image_size=8, channels=1)


def looked_at(name: str, model: torch.nn.Module, layers: tuple[str, ...] = ()) -> Surveyed:
    return survey(model, torch.zeros(2, 1, 8, 8), stages=catalog.find(name).stages, layers=layers)


def specs(name: str, **changes: Any) -> list[Any]:
    """The term, beside labels where it is not that itself."""
    made = TERMS[name](**(SMALL.get(name, {}) | changes))
    return [made] if name == "cross_entropy" else [CrossEntropyTerm(weight=1.0), made]


def lesson(
    name: str, dataset: Dataset, *, seed: int = 1, teachers: tuple[str, ...] = ("wrn16-1",), **changes: Any
) -> Offline:
    student, taught_by = network("resnet8", seed), [network(each, 7 + place) for place, each in enumerate(teachers)]
    seen = looked_at("resnet8", student)
    fittings = [
        Fitting(seen, looked_at(each, model), labels=dataset.train.labels, ids=dataset.train.ids)
        for each, model in zip(teachers, taught_by, strict=True)
    ]
    torch.manual_seed(seed)
    objective = build(specs(name, **changes), fittings)
    frozen = [FrozenTeacher(model, layers=objective.teacher_layers(place)) for place, model in enumerate(taught_by)]
    teacher = frozen[0] if len(frozen) == 1 else EnsembleTeacher(frozen, merge="mean_logits")
    return Offline(student, objective=objective, teacher=teacher)


def run(made: Offline, dataset: Dataset, observer: Any, *, batch_size: int = 16, **options: Any) -> Any:
    recipe = RECIPE.model_copy(update={"batch_size": batch_size})
    return train(made, dataset=dataset, recipe=recipe, augment=("crop", "flip"), observer=observer, **options)


def test_the_registry_holds_every_term_of_the_spec_in_its_order() -> None:
    assert [kind.name for kind in OBJECTIVES] == list(TERMS)


@pytest.mark.parametrize("name", TERMS)
def test_it_learns_and_is_told_raw_weighted_and_by_its_share(name, small_dataset, listener):
    observer = listener()
    run(lesson(name, small_dataset), small_dataset, observer)
    assert {f"loss/{name}", f"weighted/{name}"} <= observer.series.keys()
    assert all(math.isfinite(value) for curve in observer.series.values() for _, value in curve)
    if name != "cross_entropy":
        shares = [dict(observer.series[f"share/{each}"]) for each in ("cross_entropy", name)]
        assert all(shares[0][step] + shares[1][step] == pytest.approx(1, abs=1e-6) for step in shares[0])
        assert max(shares[1].values()) > 0


@pytest.mark.parametrize("name", TERMS)
def test_all_that_it_trains_is_optimised_clipped_saved_and_not_delivered(name, small_dataset, listener):
    made, observer = lesson(name, small_dataset), listener()
    before = {key: value.clone() for key, value in made.objective.state_dict().items()}
    own = list(made.objective.parameters())
    assert all(each.requires_grad for each in own)
    assert {id(each) for each in own} <= {id(each) for group in made.learners() for each in group}
    trained = run(made, small_dataset, observer)
    after = made.objective.state_dict()
    still = [key for key, _ in made.objective.named_parameters() if torch.equal(before[key], after[key])]
    assert still == [], "what a term trains must move"
    saved = observer.states[-1]["objective"]
    assert saved.keys() == after.keys()
    assert all(torch.equal(saved[key], after[key]) for key in after if isinstance(after[key], Tensor))
    assert trained.best.keys() == network("resnet8", 0).state_dict().keys()


@pytest.mark.parametrize("name", TERMS)
def test_its_gradient_is_that_of_the_batch_in_parts_unless_it_compares_samples(name, small_dataset):
    """In evaluation mode, since batch normalisation compares samples too."""

    def gradient(parts: int) -> Tensor:
        made = lesson(name, small_dataset)
        made.prepare(torch.device("cpu"))
        made.network.eval()
        made.objective.eval()
        options = {"epoch": 0, "start_batch": 0, "augment": (), "layout": torch.channels_last}
        batch = next(made.batches(small_dataset, RECIPE, **options))
        for part in parted(batch, parts=parts):
            value = made.terms(made.forward(part), part)[name] * len(part.labels) / len(batch.labels)
            torch.autograd.backward(value)
        found = [each.grad for group in made.learners() for each in group if each.grad is not None]
        return torch.cat([each.flatten() for each in found])

    whole, in_parts = gradient(1), gradient(4)
    (kind,) = [each for each in OBJECTIVES if each.name == name]
    close = torch.allclose(whole, in_parts, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))
    assert close != getattr(kind, "compares_samples", False)


@pytest.mark.parametrize("name", TERMS)
def test_stopped_and_taken_up_again_it_goes_on_bit_for_bit(name, small_dataset, listener):
    whole = lesson(name, small_dataset)
    run(whole, small_dataset, listener())
    observer = listener(stop_when=lambda looks: looks == 3)
    with pytest.raises(Stopped):
        run(lesson(name, small_dataset), small_dataset, observer)
    path, sha256 = observer.files[-1]
    resumed = lesson(name, small_dataset, seed=99)
    run(resumed, small_dataset, listener(), resume=checkpoint.load(path, sha256=sha256))
    assert state_sha256(resumed.network) == state_sha256(whole.network)
    assert state_sha256(resumed.objective) == state_sha256(whole.objective)


@pytest.mark.parametrize("name", [name for name in TERMS if name != "cross_entropy"])
def test_two_teachers_that_differ_in_architecture_teach_together(name, small_dataset, listener):
    made = lesson(name, small_dataset, teachers=("wrn16-1", "resnet14"))
    before = state_sha256(made.teacher)
    observer = listener()
    run(made, small_dataset, observer)
    assert all(math.isfinite(value) for _, value in observer.series[f"loss/{name}"])
    assert state_sha256(made.teacher) == before


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_its_loss_is_single_precision_even_on_the_smallest_batch(name, precision, small_dataset):
    made = lesson(name, small_dataset)
    whole = next(batches(small_dataset.train, batch_size=16, seed=0, epoch=0, augment=(), mean=(0.5,), std=(0.2,)))
    few = Batch(whole.images[:2], whole.labels[:2], whole.ids[:2])
    made.network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        answers = made.forward(few)
    raw = made.terms(answers, few)
    assert raw[name].dtype == torch.float32
    assert bool(raw[name].isfinite())
    gradients = torch.autograd.grad(raw[name], list(made.network.parameters()), allow_unused=True)
    assert all(bool(each.isfinite().all()) for each in gradients if each is not None)


@pytest.mark.parametrize("name", READERS)
def test_named_pairs_of_layers_are_read(name, small_dataset):
    pairs = (LayerPair(student="layer2", teacher="block3"),)
    student, teacher = network("resnet8", 1), network("wrn16-1", 2)
    fitting = Fitting(
        looked_at("resnet8", student, ("layer2",)), looked_at("wrn16-1", teacher, ("block3",)),
        labels=small_dataset.train.labels, ids=small_dataset.train.ids,
    )  # fmt: skip
    objective = build(specs(name, pairs=pairs), [fitting])
    assert "layer2" in objective.student_layers
    assert "block3" in objective.teacher_layers()


@pytest.mark.parametrize("name", READERS)
def test_a_layer_that_was_not_looked_at_is_refused_with_its_name(name, small_dataset):
    student, teacher = network("resnet8", 1), network("wrn16-1", 2)
    fitting = Fitting(
        looked_at("resnet8", student), looked_at("wrn16-1", teacher),
        labels=small_dataset.train.labels, ids=small_dataset.train.ids,
    )  # fmt: skip
    with pytest.raises(InvalidRequest, match="layer9") as caught:
        build(specs(name, pairs=(LayerPair(student="layer9", teacher="block3"),)), [fitting])
    assert caught.value.pointer.startswith("/method/objective/1/pairs")


def test_weights_rise_over_their_warm_up_and_stay() -> None:
    objective = build([CrossEntropyTerm(weight=1.0), TERMS["soft_targets"](weight=0.8, warmup_epochs=4)])
    assert [objective.weights_in(epoch)["soft_targets"] for epoch in (0, 1, 3, 9)] == pytest.approx(
        [0.2, 0.4, 0.8, 0.8]
    )
    assert {objective.weights_in(epoch)["cross_entropy"] for epoch in range(9)} == {1.0}


def test_the_weight_told_is_that_of_the_epoch(small_dataset, listener):
    observer = listener()
    run(lesson("soft_targets", small_dataset, weight=0.8, warmup_epochs=2), small_dataset, observer)
    raw, weighted = (dict(observer.series[f"{kind}/soft_targets"]) for kind in ("loss", "weighted"))
    assert {round(weighted[step] / raw[step], 6) for step in range(1, 6)} == {0.4}
    assert {round(weighted[step] / raw[step], 6) for step in range(6, 11)} == {0.8}


def test_a_dead_term_is_told_once(small_dataset, listener):
    observer = listener()
    run(lesson("soft_targets", small_dataset, weight=1e-6), small_dataset, observer)
    (warning,) = observer.warnings
    assert "soft_targets teaches nothing" in warning


def test_a_dead_term_is_not_told_again_after_a_resume(small_dataset, listener):
    observer = listener(stop_when=lambda looks: looks == 80)
    with pytest.raises(Stopped):
        run(lesson("soft_targets", small_dataset, weight=1e-6), small_dataset, observer, batch_size=1)
    assert len(observer.warnings) == 1
    path, sha256 = observer.files[-1]
    again = listener()
    made = lesson("soft_targets", small_dataset, weight=1e-6)
    run(made, small_dataset, again, batch_size=1, resume=checkpoint.load(path, sha256=sha256))
    assert again.warnings == []


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_and_its_terms_are_the_list_it_spells(preset, small_dataset):
    assert OfflineMethod(preset=preset).terms == PRESETS[preset] == spelled_out((preset,))
