"""The loop computes what the textbook's arithmetic computes: the same losses for 50 steps, to 1e-5 of each loss.

Ours runs in channels-last, with its own losses and its fused optimizer; beside it stands NCHW with every formula
written out, on the same batches of real images. Training amplifies rounding: at the usual rate of 0.05 two orders of
the same float32 sums part by several per cent within 50 steps, whoever computes them. So the usual rate is compared in
float64, where only a different formula could part the curves, and float32 at a rate that does not amplify.
"""

import pytest
import torch
from torch import nn

from benchmarks.contest import images, networks, ours
from benchmarks.contest.task import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Task
from distillery.spec.training import Sgd
from engine.data.views import batches
from engine.loop import train
from engine.strategies.offline import Offline
from engine.teachers import FrozenTeacher

BATCH, EPOCHS, STEPS = 64, 5, 50
T, HARD, SOFT = 4.0, 0.1, 0.9
GENTLE = 2e-4
TASK = Task("ours: live fp32", "", "resnet14", "resnet8", batch_size=BATCH, epochs=EPOCHS)


class Doubled(nn.Module):
    """A network that computes in float64, whatever it is given."""

    def __init__(self, network):
        super().__init__()
        self.network = network.double()

    def forward(self, pixels):
        return self.network(pixels.double())


def log_softmax(logits):
    shifted = logits - logits.max(dim=1, keepdim=True).values.detach()
    return shifted - shifted.exp().sum(dim=1, keepdim=True).log()


def textbook_losses(teacher, student, dataset, *, rate):
    """Hinton's objective and SGD with momentum and weight decay, from their formulas."""
    teacher.eval()
    student.train()
    weights = list(student.parameters())
    speed = [torch.zeros_like(each) for each in weights]
    for epoch in range(EPOCHS):
        for batch in batches(
            dataset.train, batch_size=BATCH, seed=TASK.seed, epoch=epoch, augment=ours.AUGMENT,
            mean=dataset.mean, std=dataset.std,
        ):  # fmt: skip
            assert batch.images.is_contiguous()
            with torch.no_grad():
                told = log_softmax(teacher(batch.images) / T)
            logits = student(batch.images)
            hard = -log_softmax(logits)[torch.arange(BATCH), batch.labels].mean()
            soft = T**2 * (told.exp() * (told - log_softmax(logits / T))).sum() / BATCH
            loss = HARD * hard + SOFT * soft
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for each, moving, gradient in zip(weights, speed, gradients, strict=True):
                    moving.mul_(MOMENTUM).add_(gradient + WEIGHT_DECAY * each)
                    each.sub_(rate * moving)
            yield loss.item()


@pytest.mark.parametrize(
    ("data", "wrapped", "rate"), [("cifar10", nn.Sequential, GENTLE), ("digits", Doubled, LEARNING_RATE)],
    ids=["float32", "float64 at the usual rate"],
)  # fmt: skip
def test_the_losses_of_fifty_steps_are_those_of_the_textbook(data_root, data, wrapped, rate):
    found = data if data == "digits" else str(data_root(data))
    arrays = images.gather(found, count=BATCH * STEPS // EPOCHS, tests=4)
    dataset = ours.as_dataset(arrays, name="few")
    lesson = Offline(
        wrapped(networks.student(TASK, arrays)),
        objective=ours.objective(temperature=T, soft=SOFT),
        teacher=FrozenTeacher(wrapped(networks.teacher(TASK, arrays))),
    )
    recipe = ours.recipe(TASK, ours.variant(TASK.contender)).model_copy(
        update={"optimizer": Sgd(lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)}
    )
    trained = train(lesson, dataset=dataset, recipe=recipe, augment=ours.AUGMENT, observer=ours.Silent())
    # An epoch of ten steps tells each of them.
    told = [value for _, value in trained.history["loss"]]
    teacher, student = (wrapped(drawn(TASK, arrays)) for drawn in (networks.teacher, networks.student))
    expected = list(textbook_losses(teacher, student, dataset, rate=rate))
    assert len(told) == STEPS
    assert told == pytest.approx(expected, rel=1e-5, abs=0)
    assert expected[-1] < 0.8 * expected[0], "it learns, so the losses of later steps say something"
