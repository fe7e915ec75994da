"""The options that whoever runs a job understands, be it for good or for a trial."""

import argparse
from pathlib import Path


def parser(program: str, *, description: str) -> argparse.ArgumentParser:
    """A parser of the job, the files that were fetched for it, and where to write and tell."""
    made = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    made.add_argument("job", type=Path, help="the job spec, YAML or JSON")
    made.add_argument("--out", type=Path, required=True, help="folder for the student, the report and checkpoints")
    made.add_argument(
        "--teacher-weights",
        type=_placed_file,
        action="append",
        default=[],
        metavar="PLACE=FILE",
        help="weights fetched for the job or model of the teacher at that place of the spec, from 0",
    )
    made.add_argument(
        "--teacher-facts",
        type=_placed_file,
        action="append",
        default=[],
        metavar="PLACE=FILE",
        help="what is known of a teacher that was brought along, as JSON (distillery.views.ModelFacts)",
    )
    made.add_argument("--dataset", type=Path, metavar="FILE", help="the packed file of a data set of kind 'stored'")
    made.add_argument(
        "--unlabelled", type=Path, metavar="FILE", help="the packed file that 'dataset.unlabelled.id' stands for"
    )
    made.add_argument("--events-fd", type=int, help="file descriptor for messages to a supervisor")
    return made


def _placed_file(text: str) -> tuple[int, Path]:
    place, _, path = text.partition("=")
    return int(place), Path(path)
