"""The softmax values that the methods page corrects, exactly as it states them."""

import pytest
import torch
from torch.nn import functional

from engine.objectives.soft_targets import soft_targets

FACTS = [
    ([2, 1, 0.1], 5, [0.3996, 0.3272, 0.2733], 4),
    ([2, 1, 0.1], 0.5, [0.8638, 0.1169, 0.0193], 4),
    ([10, 5, 1], 1, [0.9932, 0.0067, 0.0001], 4),
    ([10, 5, 1], 10, [0.497, 0.301, 0.202], 3),
]


@pytest.mark.parametrize(("z", "temperature", "stated", "digits"), FACTS)
def test_softened_answers(z, temperature, stated, digits):
    found = functional.softmax(torch.tensor([z], dtype=torch.float64) / temperature, dim=1)[0].tolist()
    assert [round(value, digits) for value in found] == stated


@pytest.mark.parametrize(("z", "temperature", "stated", "_digits"), FACTS)
def test_the_loss_softens_as_stated(z, temperature, stated, _digits):
    """Against a uniform student the divergence is log K minus the entropy of the teacher's softened answers."""
    p = torch.tensor(stated, dtype=torch.float64)
    expected = temperature**2 * float((p * (p * len(z)).log()).sum())
    teacher = torch.tensor([z], dtype=torch.float64)
    found = soft_targets(torch.zeros(1, len(z), dtype=torch.float64), teacher, temperature=temperature)
    assert float(found) == pytest.approx(expected, abs=2e-3 * temperature**2)
