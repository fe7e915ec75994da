"""The loop that tutorials teach: PIL images, torchvision's transforms, a DataLoader in the main process, NCHW, float32,
a loss that is read at every step."""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from benchmarks.contest import images, networks
from benchmarks.contest.gate import Gate
from benchmarks.contest.task import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Task


def run(task: Task, gate: Gate) -> None:
    """All jobs of the task, one after another."""
    arrays, device = images.read(task.images), torch.device(task.device)
    teacher = networks.teacher(task, arrays).to(device)
    gate.ready(precision="fp32", torch=torch.__version__)
    for temperature, soft in task.jobs:
        _distil(teacher, task, arrays, gate, temperature=temperature, soft=soft)
    gate.finished()


def _distil(
    teacher: nn.Module, task: Task, arrays: images.Arrays, gate: Gate, *, temperature: float, soft: float
) -> None:
    device, student = torch.device(task.device), networks.student(task, arrays)
    student.to(device)
    loader = DataLoader(images.Pictures(arrays), batch_size=task.batch_size, shuffle=True, num_workers=0)
    optimizer = torch.optim.SGD(student.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    teacher.eval()
    for _ in range(task.epochs):
        student.train()
        total = 0.0
        for pictures, labels in loader:
            pictures, labels = pictures.to(device), labels.to(device)
            with torch.no_grad():
                teacher_logits = teacher(pictures)
            logits = student(pictures)
            hard_loss = functional.cross_entropy(logits, labels)
            soft_loss = functional.kl_div(
                functional.log_softmax(logits / temperature, dim=1),
                functional.softmax(teacher_logits / temperature, dim=1),
                reduction="batchmean",
            )
            loss = (1 - soft) * hard_loss + soft * temperature**2 * soft_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            gate.step(len(labels))
