"""Mutual learning does what two optimizers would, one-way learning leaves the teacher alone, both can be resumed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from distillery.spec.methods import OnlineMethod
from distillery.spec.objectives import CrossEntropyTerm, HintTerm, LayerPair
from distillery.spec.training import Sgd, Training
from engine import checkpoint
from engine.data.views import batches
from engine.fitting import Fitting, survey
from engine.loop import Stopped, train
from engine.objectives import build
from engine.strategies.online import STUDENT, Online, Peers, state_of
from engine.teachers import state_sha256

TERMS = OnlineMethod().terms
RECIPE = Training(
    epochs=2, batch_size=16, seed=3, device="cpu", precision="fp32", optimizer=Sgd(lr=0.05), schedule="constant"
)


def learns(names, *, mutual=True, terms=TERMS, networks=None):
    """For each learner an objective for each of the others; hints are fitted to the networks."""

    def objective(learner, other):
        if networks is None:
            return build(terms)
        images = torch.zeros(2, 1, 8, 8)
        looked = [survey(networks[name], images, stages=("0", "4")) for name in (learner, other)]
        return build(terms, [Fitting(*looked)])

    alone = {"": build([term for term in terms if not term.needs_teacher])}
    return {
        learner: {other: objective(learner, other) for other in names if other != learner}
        if mutual or learner == STUDENT
        else alone
        for learner in names
    }


def lesson(small_network, names=("student", "teacher"), **options):
    networks = {name: small_network(seed=place, width=6 + place) for place, name in enumerate(names)}
    return Online(Peers(networks), objectives=learns(names, **options))


def run(lesson, small_dataset, observer, *, resume=None, recipe=RECIPE):
    return train(lesson, dataset=small_dataset, recipe=recipe, augment=("crop",), observer=observer, resume=resume)


def plain(seed, width):
    """Without dropout, whose draws depend on the order of the forwards."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 3)
    )


def test_one_optimizer_over_both_equals_one_for_each(small_dataset, listener):
    """Algorithm 1 of the paper, written out: a forward of each, then a step of each with the other's answers fixed."""
    pair = [plain(0, 4), plain(1, 6)]
    mine = Online(
        Peers(dict(zip(("student", "teacher"), copy.deepcopy(pair), strict=True))),
        objectives=learns(("student", "teacher")),
    )
    run(mine, small_dataset, listener())
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4) for each in pair]
    for epoch in range(2):
        for batch in batches(
            small_dataset.train, batch_size=16, seed=3, epoch=epoch, augment=("crop",),
            mean=small_dataset.mean, std=small_dataset.std,
        ):  # fmt: skip
            answers = [each(batch.images) for each in pair]
            for place, optimizer in enumerate(optimizers):
                own, other = answers[place], answers[1 - place].detach()
                kl = (other.softmax(1) * (other.log_softmax(1) - own.log_softmax(1))).sum(1).mean()
                optimizer.zero_grad()
                (functional.cross_entropy(own, batch.labels) + kl).backward()
            for optimizer in optimizers:
                optimizer.step()
    for name, network in zip(("student", "teacher"), pair, strict=True):
        for found, expected in zip(mine.network.peers[name].parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_one_way_the_teacher_learns_as_if_it_were_alone(small_dataset, listener):
    """The design document's form: the teacher on the labels, the student on the teacher's present answers too."""
    pair = {"student": plain(0, 4), "teacher": plain(1, 6)}
    alone = {"student": plain(2, 4), "teacher": copy.deepcopy(pair["teacher"])}
    for networks in (pair, alone):
        run(Online(Peers(networks), objectives=learns(tuple(networks), mutual=False)), small_dataset, listener())
    assert state_sha256(pair["teacher"]) == state_sha256(alone["teacher"])
    assert state_sha256(pair["student"]) != state_sha256(alone["student"])


def test_in_mutual_learning_the_teacher_learns_from_the_student(small_dataset, listener):
    pairs = [{"student": plain(seed, 4), "teacher": plain(1, 6)} for seed in (0, 2)]
    for networks in pairs:
        run(Online(Peers(networks), objectives=learns(tuple(networks))), small_dataset, listener())
    assert state_sha256(pairs[0]["teacher"]) != state_sha256(pairs[1]["teacher"])


def test_of_three_peers_each_learns_the_mean_of_the_others(small_network, small_dataset):
    names = ("student", "teacher1", "teacher2")
    made = lesson(small_network, names)
    made.network.eval()
    batch = next(
        made.batches(small_dataset, RECIPE, epoch=0, start_batch=0, augment=(), layout=torch.contiguous_format)
    )
    answers = made.forward(batch)
    raw = made.terms(answers, batch)
    assert set(raw) == {
        *("cross_entropy", "soft_targets"),
        *(f"teacher{number}/{name}" for number in (1, 2) for name in ("cross_entropy", "soft_targets")),
    }
    own = answers["student"].logits.log_softmax(1)
    divergences = [
        (z.softmax(1) * (z.log_softmax(1) - own)).sum(1).mean() for z in (answers[name].logits for name in names[1:])
    ]
    torch.testing.assert_close(raw["soft_targets"], torch.stack(divergences).mean())
    torch.testing.assert_close(raw["cross_entropy"], functional.cross_entropy(answers["student"].logits, batch.labels))
    assert made.weights(0) == dict.fromkeys(raw, 1.0)


def test_no_gradient_passes_from_one_peer_into_another(small_network, small_dataset):
    made = lesson(small_network)
    batch = next(
        made.batches(small_dataset, RECIPE, epoch=0, start_batch=0, augment=(), layout=torch.contiguous_format)
    )
    raw = made.terms(made.forward(batch), batch)
    teacher = list(made.network.peers["teacher"].parameters())
    assert all(each is None for each in torch.autograd.grad(raw["soft_targets"], teacher, allow_unused=True))


def test_each_peer_has_its_own_gradient_clipped(small_network, small_dataset, listener):
    made = lesson(small_network)
    before = {name: [each.detach().clone() for each in peer.parameters()] for name, peer in made.network.peers.items()}
    recipe = RECIPE.model_copy(
        update={
            "epochs": 1,
            "batch_size": 70,
            "clip_grad_norm": 0.01,
            "optimizer": Sgd(lr=1.0, momentum=0, weight_decay=0),
        }
    )
    run(made, small_dataset, listener(), recipe=recipe)
    for name, peer in made.network.peers.items():
        moved = [
            (each.detach() - old).square().sum() for each, old in zip(peer.parameters(), before[name], strict=True)
        ]
        assert float(torch.stack(moved).sum().sqrt()) == pytest.approx(0.01, rel=1e-3)


def test_the_accuracy_of_every_peer_is_a_curve_and_the_shares_are_the_students(small_network, small_dataset, listener):
    observer = listener()
    run(lesson(small_network), small_dataset, observer)
    assert {"validation/accuracy", "validation/accuracy/teacher"} <= observer.series.keys()
    assert {name for name in observer.series if name.startswith("share/")} == {
        "share/cross_entropy",
        "share/soft_targets",
    }


def test_the_weights_of_each_peer_are_found_in_the_whole(small_network, small_dataset, listener):
    made = lesson(small_network)
    trained = run(made, small_dataset, listener())
    for name, width in (("student", 6), ("teacher", 7)):
        small_network(width=width).load_state_dict(state_of(name, trained.last))


@pytest.mark.parametrize("terms", ["logits", "hints"])
def test_a_stopped_run_goes_on_to_the_same_weights(small_network, small_dataset, listener, terms):
    pairs = (LayerPair(student="0", teacher="0"),)
    given = {} if terms == "logits" else {"terms": (CrossEntropyTerm(weight=1.0), HintTerm(weight=1.0, pairs=pairs))}

    def fresh(seed):
        names = ("student", "teacher")
        networks = {name: small_network(seed=seed + place, width=6 + place) for place, name in enumerate(names)}
        hints = {} if terms == "logits" else {"networks": networks}
        torch.manual_seed(seed)
        return Online(Peers(networks), objectives=learns(names, **given, **hints))

    whole = fresh(1)
    run(whole, small_dataset, listener())
    observer = listener(stop_when=lambda looks: looks == 4)
    with pytest.raises(Stopped):
        run(fresh(1), small_dataset, observer)
    path, sha256 = observer.files[-1]
    resumed = fresh(9)
    run(resumed, small_dataset, listener(), resume=checkpoint.load(path, sha256=sha256))
    assert state_sha256(resumed.network) == state_sha256(whole.network)
    assert state_sha256(resumed.objective) == state_sha256(whole.objective)
