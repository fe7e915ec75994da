"""The tables that a run prints, and the page that `--markdown` writes."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.chaos.verdict import Verdict
from benchmarks.chaos.weights import Survival

_SHOWN = 20


def page(command: str, verdicts: Mapping[str, Verdict], survival: Survival | None) -> str:
    """Everything, as Markdown."""
    parts = [
        "# Jobs under kill -9, SIGSTOP, FLUSHALL and crashes of Postgres",
        f"Written by `{command}`. {_machine()}",
    ]
    if verdicts:
        parts += [_storms(verdicts), _NOTES]
    if survival is not None:
        parts += ["## The weights of a real distillation", _weights(survival)]
    found = [line for each in (*verdicts.values(), survival) if each is not None for line in each.complaints]
    if found:
        parts.append("## Broken\n\n" + "\n".join(f"- {line}" for line in found[:_SHOWN]))
        if len(found) > _SHOWN:
            parts.append(f"And {len(found) - _SHOWN} more.")
    return "\n\n".join(parts) + "\n"


def _storms(verdicts: Mapping[str, Verdict]) -> str:
    names = list(verdicts)
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    columns = [_rows(verdict) for verdict in verdicts.values()]
    lines += [f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0]]
    return "\n".join(lines)


def _rows(verdict: Verdict) -> dict[str, str]:
    done, statuses = verdict.done, verdict.statuses
    by_role = ", ".join(f"{done[f'kill {role}']} {role}s" for role in ("worker", "trainer"))
    return {
        "jobs accepted": str(verdict.accepted),
        "succeeded": str(statuses["succeeded"]),
        "cancelled, as asked": str(statuses["cancelled"]),
        "**lost** (no row, no end, failed, or cancelled unasked)": f"**{len(verdict.lost)}**",
        "**finished twice**, by events": f"**{len(verdict.twice_by_events)}**",
        "**finished twice**, by attempts": f"**{len(verdict.twice_by_attempts)}**",
        "**wrong results**": f"**{len(verdict.wrong)}**",
        "**stale writes accepted**": f"**{len(verdict.stale)}** of {verdict.witnessed:,} writes and ends",
        "attempts that lost their job and were refused a write": str(verdict.refused),
        "attempts that withdrew before they wrote": str(verdict.withdrew),
        "broken invariants": str(len(verdict.broken)),
        "a killed worker's job waits again after, s: p50 / p95 / max (kills)": str(verdict.worker_recovery.queued),
        "… and is begun again after": str(verdict.worker_recovery.begun),
        "a killed trainer's job waits again after, s": str(verdict.trainer_recovery.queued),
        "… and is begun again after, s": str(verdict.trainer_recovery.begun),
        "kill -9": f"{done['kill']} ({by_role}, {done['kill pool process']} pool processes)",
        "SIGSTOP … SIGCONT": f"{done['stop']} ({done['stop longer than the lease']} longer than the lease)",
        "FLUSHALL": str(done["flush"]),
        "crashes of Postgres (`-m immediate`)": str(done["crash"]),
        "cancels; pauses with resume": f"{done['cancel']}; {done['pause']}",
        "submissions that failed and yet were committed": str(verdict.unconfirmed),
        "attempts (by Celery workers)": f"{verdict.attempts} ({verdict.by_celery})",
        "worker starts": str(verdict.starts),
        "seconds": f"{verdict.seconds:.0f}",
        "seed": str(verdict.seed),
    }


def _weights(survival: Survival) -> str:
    same = "the same" if survival.killed == survival.quiet else "NOT the same"
    return "\n".join(
        [
            f"A student is distilled from a teacher on digits, once in peace and once with {len(survival.steps)} "
            f"kill -9 of its trainer, each as soon as the named step of the job had been saved ({survival.seconds:.0f} "
            f"s, seed {survival.seed}). The weights are {same}, bit for bit.",
            "",
            f"- killed after the steps {_listed(survival.steps)}",
            f"- went on from the steps {_listed(survival.resumed_at)}",
            f"- sha256 of the student, in peace: `{survival.quiet}`",
            f"- sha256 of the student, killed: `{survival.killed}`",
        ]
    )


def _listed(steps: Sequence[object]) -> str:
    return ", ".join(map(str, steps))


_NOTES = """\
- A lease is 2 s, a heartbeat 0.3 s, the reaper comes every 0.5 s, and a crashed job waits 0.1 s: the defaults would
  make a worker's death cost up to 70 s, and the run days. Until a job is begun again it also waits for a free worker
  and for jobs that were submitted before it; about 35 wait at any time.
- The trainer is a real process that counts 5 to 20 steps of 20 to 80 ms, chains a digest over them, and saves every 2
  to 5 steps. A result is wrong when its digest is not that of an undisturbed run.
- Each fault has a place in the run, drawn from the seed, and comes when that share of the jobs has ended and up to 1 s
  more has passed. Nine of ten kills look for a process that works at a job. Dead workers are started again at once.
- Stale writes are found by triggers in the database, which note for each checkpoint, artifact and end which attempt it
  was written for and which one the job was in; they know nothing of the code that guards the writes. Of an attempt that
  was stopped for too long either the first write is refused, or it withdraws by itself before there is one.
- After the run everything in `store/invariants.py` is checked, with the sha256 of every file."""


def _machine() -> str:
    tools = [
        f"Python {platform.python_version()}",
        f"Celery {version('celery')}",
        f"SQLAlchemy {version('sqlalchemy')}",
    ]
    when = datetime.now(UTC).date().isoformat()
    return f"Machine: {_processor()}, {os.cpu_count()} cores. {', '.join(tools + _servers())}. {when}."


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", facts.read_text(), re.MULTILINE) if facts.exists() else None
    return found[1] if found else platform.machine()


def _servers() -> list[str]:
    told = []
    for name, command in (("Postgres", _postgres()), ("Redis", "redis-server")):
        try:
            said = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:
            continue
        if found := re.search(r"(?:PostgreSQL\) |v=)([0-9.]+)", said):
            told.append(f"{name} {found[1]}")
    return told


def _postgres() -> str:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return str(installed[-1]) if installed else "postgres"
