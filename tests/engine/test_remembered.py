"""Answers that are kept: what is read is what was written, or nothing, whatever happens to the files."""

import gc
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distillery.errors import InvalidRequest
from distillery.spec.objectives import SoftTargetsTerm
from distillery.spec.presets import PRESETS
from distillery.spec.training import Training
from engine import checkpoint
from engine.data.views import batches, viewed
from engine.loop import Stopped, train
from engine.objectives import build
from engine.remembered.__main__ import main
from engine.remembered.cells import Cells, cell_bytes
from engine.remembered.packing import packed, unpacked
from engine.remembered.shelf import Shelf
from engine.remembered.teacher import RememberingTeacher
from engine.strategies.offline import Offline
from engine.teachers import EnsembleTeacher, Form, FrozenTeacher, state_sha256

BOTH = ("crop", "flip")
RECIPE = Training(epochs=5, batch_size=8, seed=3, device="cpu", precision="fp32")


def opened(path, *, count=50, width=5, grow=None):
    def make(file, size):
        with file.open("ab") as there:
            there.truncate(max(size, file.stat().st_size))
        return True

    return Cells(path, count=count, width=width, grow=grow or make)


def rows(cells, *, width=5):
    """Float16 numbers that tell their cell."""
    return (np.asarray(cells)[:, None] * 16 + np.arange(width)).astype(np.float16)


def test_what_was_written_is_read_and_nothing_else(tmp_path):
    cells = opened(tmp_path / "x.cells")
    assert not cells.read(np.array([0, 7, 99]))[1].any()
    written = np.array([3, 49, 50, 77, 0])
    assert cells.write(written, rows(written))
    for reader in (cells, opened(tmp_path / "x.cells")):
        values, whole = reader.read(np.arange(100))
        assert set(np.flatnonzero(whole)) == set(written.tolist())
        assert np.array_equal(values[whole], rows(np.flatnonzero(whole)))
        assert not values[~whole].any()
        assert reader.damaged == 0


def test_a_file_that_another_made_longer_is_seen(tmp_path):
    reader, writer = (opened(tmp_path / "x.cells") for _ in range(2))
    for plane in range(4):
        at = np.array([plane * 50 + 1])
        assert not reader.read(at)[1].any()
        writer.write(at, rows(at))
        assert reader.read(at)[1].all()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 50 * cell_bytes(5) - 1), change=st.integers(1, 255))
def test_a_changed_byte_costs_its_row_and_no_other(tmp_path, place, change):
    file = tmp_path / f"{place}-{change}.cells"
    everything = np.arange(50)
    opened(file).write(everything, rows(everything))
    content = bytearray(file.read_bytes())
    content[place] ^= change
    file.write_bytes(bytes(content))
    reader = opened(file)
    values, whole = reader.read(everything)
    assert set(np.flatnonzero(~whole)) == {place // cell_bytes(5)}
    assert np.array_equal(values[whole], rows(everything[whole]))
    file.unlink()


def test_a_row_in_the_place_of_another_is_not_believed(tmp_path):
    file = tmp_path / "x.cells"
    opened(file).write(np.arange(50), rows(np.arange(50)))
    content, size = file.read_bytes(), cell_bytes(5)
    file.write_bytes(content[size:] + content[:size])
    reader = opened(file)
    assert not reader.read(np.arange(50))[1].any()
    assert reader.damaged == 50


def _write_for_ever(path):
    cells = opened(path, count=1000, width=64)
    everything = np.arange(1000)
    while True:
        for version in range(2):
            cells.write(everything, rows(everything, width=64) + np.float16(version))


def test_readers_beside_killed_writers_see_whole_rows_only(tmp_path):
    file = tmp_path / "x.cells"
    reader = opened(file, count=1000, width=64)
    everything, read = np.arange(1000), 0
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        writers = [context.Process(target=_write_for_ever, args=(file,), daemon=True) for _ in range(2)]
        for writer in writers:
            writer.start()
        until = time.monotonic() + 60
        while not reader.read(everything)[1].any() and time.monotonic() < until:
            pass
        for look in range(300):
            values, whole = reader.read(everything)
            first = rows(everything, width=64)
            assert ((values == first).all(1) | (values == first + np.float16(1)).all(1))[whole].all()
            read += int(whole.sum())
            if look == 200:
                for writer in writers:
                    os.kill(writer.pid, signal.SIGKILL)
        for writer in writers:
            writer.join()
    assert read > 1000


def test_room_is_made_by_what_was_used_longest_ago_and_by_nothing_that_is_held(tmp_path):
    shelf = Shelf(tmp_path / "answers", limit=4500)
    entries = [shelf.open({"number": number}) for number in range(4)]
    for age, entry in enumerate(entries):
        assert entry.grow(entry.folder / "x.cells", 1000)
        os.utime(entry.folder, (1000 + age, 1000 + age))
    entries[0].close()
    entries[2].close()
    assert entries[3].grow(entries[3].folder / "x.cells", 1900)
    assert [entry.folder.exists() for entry in entries] == [False, True, True, True]
    assert entries[3].grow(entries[3].folder / "y.cells", 1000)
    assert [entry.folder.exists() for entry in entries] == [False, True, False, True]
    assert not entries[3].grow(entries[3].folder / "z.cells", 1000)
    assert entries[1].folder.exists()
    again = shelf.open({"number": 0})
    assert json.loads((again.folder / "key.json").read_text()) == {"number": 0}
    assert shelf.clear() == 0
    for entry in (*entries, again):
        entry.close()
    assert shelf.clear() > 3000
    assert [each.name for each in shelf.root.iterdir()] == ["locks"]


def test_a_dead_process_holds_nothing(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from engine.remembered.shelf import Shelf\n"
        "entry = Shelf(Path(sys.argv[1])).open({'a': 1}); entry.grow(entry.folder / 'x.cells', 500)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=False).returncode == -signal.SIGKILL
    assert Shelf(tmp_path / "s").clear() >= 500


def test_a_full_disk_keeps_what_is_there_and_asks_live(tmp_path, small_dataset, small_network):
    code = (
        "import resource, sys; from pathlib import Path; from engine.remembered.shelf import Shelf\n"
        "entry = Shelf(Path(sys.argv[1])).open({'a': 1}); file = entry.folder / 'x.cells'\n"
        "print(entry.grow(file, 1000)); resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "print(entry.grow(file, 3000), file.stat().st_size, entry.grow(file, 1500))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["True", "False", "1000", "True"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    teacher, counted = remembering(tmp_path / "tiny", small_dataset, small_network(seed=2), limit=100)
    learned(small_dataset, small_network, teacher)
    assert teacher.counts.unkept == teacher.counts.asked == counted() == 5 * 70


@pytest.mark.parametrize("told", ["ten", "-1", "1.5", "1e9"])
def test_a_bound_that_is_no_number_is_refused_with_an_example(monkeypatch, told):
    monkeypatch.setenv("DISTILLERY_ANSWERS_BYTES", told)
    with pytest.raises(InvalidRequest, match=f"'{told}'") as error:
        Shelf.of_this_machine()
    assert "10737418240" in error.value.hint


def remembering(root, dataset, network, *, views=2, layers=(), limit=1 << 30):
    """A teacher with a memory, and how many images its network was asked about."""
    asked = []
    network.register_forward_hook(lambda _module, inputs, _answer: asked.append(len(inputs[0])))
    shown = viewed(dataset.train, views=views, augment=BOTH)
    key = {"teacher": state_sha256(network), "views": shown.facts}
    shelf = Shelf(root, limit=limit)
    teacher = RememberingTeacher(
        FrozenTeacher(network, layers=layers), entry=lambda number: shelf.open(key | {"precision": number}), views=shown
    )
    return teacher, lambda: sum(asked)


def learned(dataset, small_network, teacher, *, recipe=RECIPE, seed=1, observer=None, resume=None, **options):
    """The hash of a student after its run."""
    student = small_network(seed=seed)
    lesson = Offline(student, objective=build(options.pop("terms", PRESETS["kd"])), teacher=teacher)
    lesson.views = options.pop("views", 2)
    watcher = observer or Deaf()
    train(lesson, dataset=dataset, recipe=recipe, augment=BOTH, observer=watcher, resume=resume, **options)
    return state_sha256(student)


class Deaf:
    """Listens to nothing."""

    def __getattr__(self, name):
        return lambda *_, **__: False


@pytest.mark.parametrize("views", [2, None])
def test_another_student_temperature_and_seed_cost_no_answer(tmp_path, small_dataset, small_network, views):
    teacher, counted = remembering(tmp_path, small_dataset, small_network(seed=2, width=8), views=views)
    recipe = RECIPE if views else RECIPE.model_copy(update={"epochs": 150})
    learned(small_dataset, small_network, teacher, views=views, recipe=recipe)
    first = counted()
    assert first == teacher.counts.asked
    assert first == (2 * 70 if views else first)
    again, counted_again = remembering(tmp_path, small_dataset, small_network(seed=2, width=8), views=views)
    warmer = [SoftTargetsTerm(temperature=7.0)]
    other = recipe.model_copy(update={"seed": 9, "batch_size": 16})
    learned(small_dataset, small_network, again, views=views, seed=5, terms=warmer, recipe=other)
    assert counted_again() == again.counts.asked <= (0 if views else 0.002 * first)
    assert again.counts.recalled + again.counts.asked == recipe.epochs * 70


@pytest.mark.parametrize("views", [1, 2, None])
def test_a_run_learns_the_same_whether_answers_are_read_or_computed(tmp_path, small_dataset, small_network, views):
    results = []
    for root in ("one", "one", "two"):
        teacher, _ = remembering(tmp_path / root, small_dataset, small_network(seed=2, width=8), views=views)
        results.append(learned(small_dataset, small_network, teacher, views=views))
    assert len(set(results)) == 1


def test_answers_are_those_of_the_teacher_but_for_their_rounding(tmp_path, small_dataset, small_network):
    teacher, _ = remembering(tmp_path, small_dataset, small_network(seed=2, width=8), layers=("0", "embedding"))
    live = FrozenTeacher(small_network(seed=2, width=8), layers=("0", "embedding"))
    for _ in range(2):
        options = {"batch_size": 16, "seed": 0, "epoch": 0, "augment": BOTH, "mean": (0.5,), "std": (0.2,), "views": 2}
        for batch in batches(small_dataset.train, **options):
            told, expected = teacher.knowledge(batch), live.knowledge(batch)
            pairs = [(told.logits, expected.logits)]
            pairs += [(told.features[layer], expected.features[layer]) for layer in ("0", "embedding")]
            for ours, theirs in pairs:
                assert ours.dtype == torch.float32
                assert torch.equal(ours, theirs.half().float())
    assert teacher.counts.recalled == teacher.counts.asked == 70


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped_with_and_without_its_memory(
    tmp_path, small_dataset, small_network, listener
):
    whole = learned(small_dataset, small_network, remembering(tmp_path / "a", small_dataset, small_network(seed=2))[0])
    for forgets in (False, True):
        root = tmp_path / f"b{forgets}"
        watch = listener(stop_when=lambda seen: seen >= 23)
        teacher, _ = remembering(root, small_dataset, small_network(seed=2))
        with pytest.raises(Stopped):
            learned(small_dataset, small_network, teacher, observer=watch)
        if forgets:
            shutil.rmtree(root)
        teacher, _ = remembering(root, small_dataset, small_network(seed=2))
        state = loaded(watch)
        assert learned(small_dataset, small_network, teacher, resume=state, seed=77) == whole


def loaded(watch):
    path, sha256 = watch.files[-1]
    return checkpoint.load(path, sha256=sha256)


def test_what_float16_cannot_hold_is_given_as_it_is_and_not_kept(tmp_path, small_dataset, small_network):
    network = small_network(seed=2)
    with torch.no_grad():
        list(network.parameters())[-1][0] = 1e6
    teacher, _ = remembering(tmp_path, small_dataset, network)
    options = {"batch_size": 16, "seed": 0, "epoch": 0, "augment": BOTH, "mean": (0.5,), "std": (0.2,), "views": 2}
    for _ in range(2):
        for batch in batches(small_dataset.train, **options):
            assert torch.allclose(teacher.knowledge(batch).logits, FrozenTeacher(network).knowledge(batch).logits)
    assert teacher.counts.recalled == 0


def test_damage_is_found_mended_and_told(tmp_path, small_dataset, small_network):
    teacher, _ = remembering(tmp_path, small_dataset, small_network(seed=2))
    expected = learned(small_dataset, small_network, teacher)
    file = next(Path(tmp_path).rglob("logits.cells"))
    content = bytearray(file.read_bytes())
    content[5 * cell_bytes(3)] ^= 64
    with file.open("r+b") as there:
        there.write(content)
    again, counted = remembering(tmp_path, small_dataset, small_network(seed=2))
    assert learned(small_dataset, small_network, again) == expected
    assert again.counts.damaged == again.counts.asked == counted() == 1


def test_members_of_an_ensemble_remember_each_for_itself(tmp_path, small_dataset, small_network):
    made = [remembering(tmp_path, small_dataset, small_network(seed=seed)) for seed in (2, 3)]
    together = EnsembleTeacher([each for each, _ in made], merge="mean_logits")
    first = learned(small_dataset, small_network, together)
    alone, counted = remembering(tmp_path, small_dataset, small_network(seed=3))
    learned(small_dataset, small_network, alone)
    assert counted() == 0
    assert learned(small_dataset, small_network, together) == first


def test_parts_of_batches_find_their_own_answers(tmp_path, small_dataset, small_network):
    teacher, _ = remembering(tmp_path, small_dataset, small_network(seed=2))
    learned(small_dataset, small_network, teacher)
    again, counted = remembering(tmp_path, small_dataset, small_network(seed=2))
    learned(small_dataset, small_network, again, micro_batches=2)
    assert counted() == 0


def test_a_person_sees_what_is_kept_and_clears_it(tmp_path, small_dataset, small_network, monkeypatch, capsys):
    monkeypatch.setenv("DISTILLERY_ANSWERS", str(tmp_path))
    teacher, _ = remembering(tmp_path, small_dataset, small_network(seed=2))
    learned(small_dataset, small_network, teacher)
    main([])
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 2
    assert f"teacher {state_sha256(small_network(seed=2))[:12]}" in listed[0]
    main(["--clear"])
    assert "0.0 MB are free" in capsys.readouterr().out  # in use
    del teacher
    gc.collect()
    main(["--clear"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("0.0 of 10,737 MB")
    assert not list(tmp_path.glob("*/*.cells"))


@pytest.mark.parametrize(("classes", "sharpness"), [(300, 3.0), (5_000, 6.0), (65_536, 8.0)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_packed_logits_keep_the_likeliest_classes_and_the_share_of_the_others(classes, sharpness, temperature):
    drawn = np.random.Generator(np.random.PCG64(classes))
    # A few likely classes above a crowd, as trained networks answer.
    logits = drawn.normal(size=(16, classes)) + sharpness * drawn.exponential(size=(16, classes))
    logits = logits.astype(np.float32)
    again = unpacked(packed(logits), classes=classes)
    p, q = (torch.from_numpy(each).double().div(temperature).log_softmax(1) for each in (logits, again))
    assert (p.exp() * (p - q)).sum(1).max() < {1.0: 1e-3, 4.0: 1e-1}[temperature]
    best = np.argsort(-logits, axis=1)[:, :200]
    kept = np.take_along_axis(again, best, axis=1)
    assert np.array_equal(kept, np.take_along_axis(logits, best, axis=1).astype(np.float16).astype(np.float32))
    crowd = np.sort(logits, axis=1)[:, : classes - 256].astype(np.float64)
    told = np.sort(again, axis=1)[:, : classes - 256].astype(np.float64)
    assert np.allclose(np.exp(crowd / 4).sum(1), np.exp(told / 4).sum(1), rtol=2e-3)


def test_a_packed_answer_is_the_same_computed_and_read(tmp_path, small_dataset, small_network):
    network = torch.nn.Sequential(small_network(seed=2), torch.nn.Linear(3, 1_500)).eval()
    shown = viewed(small_dataset.train, views=2, augment=BOTH)
    shelf = Shelf(tmp_path)
    teacher = RememberingTeacher(
        FrozenTeacher(network), entry=lambda number: shelf.open({"precision": number}), views=shown, packs=True
    )
    options = {"batch_size": 16, "seed": 0, "epoch": 0, "augment": BOTH, "mean": (0.5,), "std": (0.2,), "views": 2}
    computed, read = (
        [teacher.knowledge(batch).logits for batch in batches(small_dataset.train, **options)] for _ in range(2)
    )
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(computed, read, strict=True))
    assert computed[0].shape == (16, 1_500)
    assert teacher.counts.recalled == teacher.counts.asked == 70
    (file,) = tmp_path.rglob("*.cells")
    assert file.stat().st_size == 70 * cell_bytes(513)


@pytest.mark.parametrize("told", ["", "[4]", "{}", "[-1]", '["3"]', "[3"])
def test_a_damaged_description_of_a_column_costs_its_answers_and_nothing_more(
    tmp_path, small_dataset, small_network, told
):
    teacher, _ = remembering(tmp_path, small_dataset, small_network(seed=2))
    expected = learned(small_dataset, small_network, teacher)
    next(tmp_path.rglob("logits.shape.json")).write_text(told)
    next(tmp_path.rglob("key.json")).write_text(told)
    assert len(Shelf(tmp_path).entries()) == 1
    again, _ = remembering(tmp_path, small_dataset, small_network(seed=2))
    assert learned(small_dataset, small_network, again) == expected
    last, counted = remembering(tmp_path, small_dataset, small_network(seed=2))
    assert learned(small_dataset, small_network, last) == expected
    assert counted() == 0


def test_a_form_of_another_number_format_has_answers_of_its_own(tmp_path, small_dataset, small_network):
    teacher, counted = remembering(tmp_path, small_dataset, small_network(seed=2))
    assert teacher.still_to_ask(epochs=5, precision="fp32") == 140
    learned(small_dataset, small_network, teacher)
    assert teacher.still_to_ask(epochs=5, precision="fp32") == 0
    rough = Form("onnxruntime", "int8", lambda images: teacher.frozen.network(images) + 1)
    teacher.frozen.answer_in(rough)
    assert teacher.still_to_ask(epochs=5, precision="fp32") == 140
    learned(small_dataset, small_network, teacher)
    assert counted() == 2 * 140
    teacher.frozen.answer_in(None)
    again, asked = remembering(tmp_path, small_dataset, small_network(seed=2))
    learned(small_dataset, small_network, again)
    assert asked() == 0
    assert len(Shelf(tmp_path).entries()) == 2


def test_a_layer_may_be_called_as_it_likes(tmp_path, small_dataset, small_network):
    network = torch.nn.Sequential()
    for place, name in enumerate(("logits", "x" * 300)):
        network.add_module(name, small_network(seed=place) if place == 0 else torch.nn.Identity())
    teacher, counted = remembering(tmp_path, small_dataset, network, layers=("logits", "x" * 300))
    options = {"batch_size": 16, "seed": 0, "epoch": 0, "augment": BOTH, "mean": (0.5,), "std": (0.2,), "views": 2}
    for _ in range(2):
        for batch in batches(small_dataset.train, **options):
            told = teacher.knowledge(batch)
            assert told.features["logits"].shape == (len(batch.labels), 3, 1, 1)
            assert torch.equal(told.features["x" * 300].flatten(1), told.logits)
    assert counted() == 70
