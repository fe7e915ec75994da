"""Plain KD is what it always was: the loop's losses are those of the loop one would write by hand, bit for bit."""

import torch
from torch.nn import functional

from distillery.spec.presets import PRESETS
from distillery.spec.training import Sgd, Training
from engine.data.views import batches
from engine.loop import train
from engine.objectives import build
from engine.strategies.offline import Offline
from engine.teachers import FrozenTeacher

RECIPE = Training(
    epochs=3, batch_size=7, seed=5, device="cpu", precision="fp32", schedule="constant",
    optimizer=Sgd(lr=0.02, momentum=0.9, weight_decay=5e-4),
)  # fmt: skip


def by_hand(student, teacher, dataset):
    """Hinton's objective with T = 4 and weights 0.1 and 0.9; ten steps of seven images an epoch."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, fused=True)
    torch.manual_seed(5)
    student.train()
    for epoch in range(3):
        for batch in batches(
            dataset.train, batch_size=7, seed=5, epoch=epoch, augment=("crop", "flip"),
            mean=dataset.mean, std=dataset.std, channels_last=True,
        ):  # fmt: skip
            with torch.no_grad():
                told = teacher(batch.images)
            z = student(batch.images)
            hard = functional.cross_entropy(z, batch.labels)
            soft = 16 * functional.kl_div(
                (z / 4).log_softmax(1), (told / 4).log_softmax(1), reduction="batchmean", log_target=True
            )
            loss = torch.stack([0.1 * hard, 0.9 * soft]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield float(loss.detach())


def test_the_losses_of_plain_kd_are_those_of_a_loop_written_by_hand(small_network, small_dataset, listener):
    layout = torch.channels_last
    teacher = small_network(seed=2, width=8).to(memory_format=layout).eval()
    lesson = Offline(
        small_network(seed=1), objective=build(PRESETS["kd"]), teacher=FrozenTeacher(small_network(seed=2, width=8))
    )
    trained = train(lesson, dataset=small_dataset, recipe=RECIPE, augment=("crop", "flip"), observer=listener())
    expected = list(by_hand(small_network(seed=1).to(memory_format=layout), teacher, small_dataset))
    assert [value for _, value in trained.history["loss"]] == expected
    assert len(expected) == 30
