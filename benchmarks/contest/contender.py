"""A contender's process: `python -m benchmarks.contest.contender TASK`, with the task as JSON."""

import os
import sys
from importlib import import_module

from benchmarks.contest.gate import Gate
from benchmarks.contest.task import Task

LOOPS = {
    "textbook": "benchmarks.contest.textbook",
    "torchdistill": "benchmarks.contest.torchdistill_loop",
    "ours": "benchmarks.contest.ours",
    "floor": "benchmarks.contest.floor",
}


def main() -> None:
    """Train when told to."""
    task = Task.parsed(sys.argv[1])
    # What libraries print must not come between the answers.
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(task.threads)
    synchronise = torch.cuda.synchronize if task.device == "cuda" else lambda: None
    gate = Gate(asked=sys.stdin, told=told, synchronise=synchronise)
    import_module(LOOPS[task.contender.partition(":")[0]]).run(task, gate)


if __name__ == "__main__":
    main()
