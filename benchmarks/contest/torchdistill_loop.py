"""torchdistill's own box and loop, unmodified, with its KD criterion; runs in the environment of `make peers`.

Written against release 1.1.5 after its documentation of `get_distillation_box` and the order of calls in its example
of image classification: before the epoch, forward, after the forward, the metric logger, after the epoch. Networks and
pictures are those of the contest. The loader has no processes of its own: on two cores they make it slower.
"""

import logging
from typing import Any

import torch
from torch.utils.data import RandomSampler
from torchdistill.core.distillation import get_distillation_box
from torchdistill.misc.log import MetricLogger, SmoothedValue

from benchmarks.contest import images, networks
from benchmarks.contest.gate import Gate
from benchmarks.contest.task import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Task

_LOG_EVERY = 100
"""Steps; as in its own configurations for CIFAR-10."""


def run(task: Task, gate: Gate) -> None:
    """All jobs of the task, one after another."""
    logging.getLogger().setLevel(logging.INFO)
    arrays, device = images.read(task.images), torch.device(task.device)
    teacher = networks.teacher(task, arrays).eval()
    gate.ready(precision="fp32", torch=torch.__version__)
    for temperature, soft in task.jobs:
        student = networks.student(task, arrays)
        pictures = {"train": images.Pictures(arrays)}
        settings = _settings(task, temperature=temperature, soft=soft)
        box = get_distillation_box(teacher, student, pictures, settings, device, None, False, 1)
        for epoch in range(task.epochs):
            box.pre_epoch_process(epoch=epoch)
            _one_epoch(box, device, gate, epoch=epoch)
            box.post_epoch_process()
        box.clean_modules()
    gate.finished()


def _one_epoch(box: Any, device: torch.device, gate: Gate, *, epoch: int) -> None:
    metrics = MetricLogger(delimiter="  ")
    metrics.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
    for pictures, labels, extra in metrics.log_every(box.train_data_loader, _LOG_EVERY, f"Epoch: [{epoch}]"):
        loss = box.forward_process(pictures.to(device), labels.to(device), extra)
        box.post_forward_process(loss=loss)
        metrics.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
        gate.step(len(labels))


def _settings(task: Task, *, temperature: float, soft: float) -> dict[str, Any]:
    read = {"student_module_path": ".", "student_module_io": "output"}
    read |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    criterion = {
        "key": "KDLoss",
        "kwargs": {**read, "temperature": temperature, "alpha": 1 - soft, "reduction": "batchmean"},
    }
    return {
        "num_epochs": task.epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": task.batch_size, "num_workers": 0},
        },
        "teacher": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": True},
        "optimizer": {
            "key": "SGD",
            "kwargs": {"lr": LEARNING_RATE, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY},
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": criterion, "weight": 1.0}}},
        },
    }
