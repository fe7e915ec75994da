"""Tables of answers teach by the ids of samples: whole rows, the top k, npz and parquet."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pytest
import torch
from pyarrow import parquet

from distillery.errors import InvalidRequest, UnusableWeights
from distillery.spec.dataset import DigitsData
from engine import evaluate
from engine.answers_table import AnswersTable, read_table
from engine.data.dataset import Dataset
from engine.data.readers import load
from engine.data.views import Batch
from engine.intake import answers
from engine.teachers import Ensemble, EnsembleTeacher, FrozenTeacher
from models import build

K = 10


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DigitsData())


def everything(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The ids of all samples, shuffled, and logits that are right about each."""
    ids = torch.cat([data.train.ids, data.validation.ids, data.test.ids])
    labels = torch.cat([data.train.labels, data.validation.labels, data.test.labels])
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.one_hot(labels[order], K) * 3.0
    return ids[order].numpy(), logits.numpy().astype(np.float32)


def batch(ids: Any) -> Batch:
    ids = torch.as_tensor(ids)
    return Batch(torch.zeros(len(ids), 1, 8, 8), torch.zeros(len(ids), dtype=torch.int64), ids)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_a_table_answers_every_sample_by_its_id(ending: str, kind: str, digits: Dataset, tmp_path: Path) -> None:
    ids, logits = everything(digits)
    told = logits if kind == "logits" else torch.from_numpy(logits).softmax(1).numpy()
    path = tmp_path / f"table.{ending}"
    if ending == "npz":
        np.savez_compressed(path, ids=ids, **{kind: told})
    else:
        parquet.write_table(arrow.table({"ids": ids, kind: list(told)}), path)
    table = read_table(path, classes=K)
    table.require(digits)
    assert (len(table), table.outputs) == (1797, kind)
    answered = evaluate.predict(table, digits.test, mean=digits.mean, std=digits.std, device="cpu")
    assert evaluate.accuracy(answered, digits.test.labels) == 1
    assert torch.allclose(answered.softmax(1), torch.from_numpy(logits).softmax(1)[rows(ids, digits.test.ids)])


def rows(ids: np.ndarray, wanted: torch.Tensor) -> list[int]:
    places = {each: place for place, each in enumerate(ids.tolist())}
    return [places[each] for each in wanted.tolist()]


def test_the_rest_of_the_probability_is_spread_over_the_classes_not_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", ids=[7, 3], indices=[[2, 0], [1, 9]], values=np.float32([[0.6, 0.2], [0.9, 0.1]]))
    table = read_table(tmp_path / "t.npz", classes=K)
    shares = evaluate.answer(table, batch([3, 7])).softmax(1)
    assert shares[1].tolist() == pytest.approx([0.2, *([0.2 / 8] * 1), 0.6, *([0.2 / 8] * 7)], abs=1e-5)
    assert shares[0, 1] == pytest.approx(0.9, abs=1e-5)
    assert shares[0, 2] < 1e-6


def test_top_logits_leave_nothing_to_the_other_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", ids=[0], indices=[[4, 5]], values=np.float32([[8.0, 6.0]]))
    shares = evaluate.answer(read_table(tmp_path / "t.npz", classes=K), batch([0])).softmax(1)[0]
    assert (shares[4] / shares[5]).log() == pytest.approx(2.0, abs=1e-3)
    assert shares[[0, 9]].sum() < 1e-5


def test_missing_samples_are_counted_and_the_first_is_named(digits: Dataset, tmp_path: Path) -> None:
    ids, logits = everything(digits)
    lost = set(digits.test.ids[:5].tolist()) | {int(digits.train.ids[2])}
    kept = np.array([each not in lost for each in ids.tolist()])
    np.savez(tmp_path / "t.npz", ids=ids[kept], logits=logits[kept])
    table = read_table(tmp_path / "t.npz", classes=K)
    with pytest.raises(UnusableWeights, match=r"1 of .* train samples, 5 of .* test samples") as refused:
        table.require(digits)
    assert f"the first is the sample {int(digits.train.ids[2])}" in refused.value.detail
    with pytest.raises(InvalidRequest, match="no answer for 1 of 2"):
        evaluate.answer(table, batch([int(ids[kept][0]), int(digits.test.ids[0])]))


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"logits": np.zeros((3, K))}, "holds 'logits'"),
        ({"ids": [0, 1, 1], "logits": np.zeros((3, K))}, "one sample stands in it twice"),
        ({"ids": [0, 1], "logits": np.zeros((3, K))}, "for 3 rows"),
        ({"ids": [0, 1, 2], "logits": np.full((3, K), np.nan)}, "not finite"),
        ({"ids": [0, 1, 2], "probabilities": np.full((3, K), 0.3)}, "do not add up to 1"),
        ({"ids": [0], "indices": [[1, 1]], "values": [[0.5, 0.4]]}, "names one class twice"),
        ({"ids": [0], "indices": [[1, 2, 3]], "values": [[0.5, 0.4]]}, "'indices' is an array"),
        ({"ids": [0.5], "logits": np.zeros((1, K))}, "'ids' is an array"),
        ({"ids": ["a/b.png"], "logits": np.zeros((1, K))}, "tells its samples by name"),
        ({"ids": [0], "logits": np.zeros((1, 4))}, "answers for 4 classes"),
        ({"ids": [0], "indices": [[11]], "values": [[0.5]]}, "answers for 12 or more classes"),
    ],
)
def test_what_is_no_table_for_this_data_is_refused(arrays: Any, why: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(UnusableWeights, match=why):
        read_table(tmp_path / "t.npz", classes=K)


def test_a_live_network_and_a_table_teach_together(digits: Dataset, tmp_path: Path) -> None:
    ids, logits = everything(digits)
    np.savez(tmp_path / "t.npz", ids=ids, logits=logits)
    table, network = read_table(tmp_path / "t.npz", classes=K), build("resnet8", classes=K, image_size=8, channels=1)
    network.eval()
    few = Batch(torch.rand(4, 1, 8, 8), digits.train.labels[:4], digits.train.ids[:4])
    teacher = EnsembleTeacher([FrozenTeacher(table), FrozenTeacher(network)], merge="mean_logits")
    with torch.no_grad():
        expected = (network(few.images) + evaluate.answer(table, few)) / 2
        assert torch.allclose(teacher.knowledge(few).logits, expected, atol=1e-5)
        assert torch.allclose(
            evaluate.answer(Ensemble([table, network], merge="mean_logits"), few), expected, atol=1e-5
        )


@pytest.mark.parametrize("kind", ["logits", "probabilities", "top"])
def test_what_a_job_delivers_of_a_table_answers_alike(kind: str, tmp_path: Path) -> None:
    shares = torch.rand(5, K, generator=torch.Generator().manual_seed(0)).softmax(1)
    top = shares.topk(3)
    arrays: dict[str, Any] = {
        "logits": {"logits": shares.numpy() * 9},
        "probabilities": {"probabilities": shares.numpy()},
        "top": {"indices": top.indices.numpy(), "values": top.values.numpy()},
    }[kind]
    np.savez(tmp_path / "t.npz", ids=np.arange(5) * 2, **arrays)
    table = read_table(tmp_path / "t.npz", classes=K)
    (tmp_path / "again.npz").write_bytes(table.content())
    again = read_table(tmp_path / "again.npz", classes=K)
    wanted = batch([0, 8, 4])
    assert torch.allclose(evaluate.answer(again, wanted), evaluate.answer(table, wanted), atol=1e-5)
    assert again.content() == table.content()


def test_equal_tables_are_packed_alike() -> None:
    table = answers.Answers(np.arange(3), None, np.ones((3, 2), dtype=np.float32), None, "logits")
    assert answers.packed(table) == answers.packed(table)
    assert isinstance(AnswersTable(table, classes=2, outputs="auto"), torch.nn.Module)
