"""A real trainer that learns nothing: it counts steps, chains a digest over them, saves, resumes and obeys signals.

It stands in for `worker.run` where supervision is tested, and starts in a fraction of a second. The labels of the job
tell it what to do: `steps`, `every` (steps between checkpoints), `pace` (seconds for each step), `trace` (a file that
gets a line for each step taken), `deaf` (it ignores SIGTERM),
`ballast` (bytes added to each checkpoint) and `ending`, with `at` the step at which it happens (or one for each of the
first attempts, separated by commas):
`killed`, `raise`, `fail`, `leave` (exit code 0 without a word), `grandchild` (leaves a process that holds the pipe),
`hold` (takes no further step until the file `go` lies beside the trace, or SIGTERM comes), `freeze` (never says a word
again), `halt` (goes with the words that `reason` and `run` hold, unless it was told to run differently). `once` limits
the ending to the first attempt; `steps_later` is for the attempts after it.
"""

import argparse
import faulthandler
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

EXIT_SAVED = 75
EXIT_HALTED = 76


class TinyTrainer:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.spec = json.loads(options.job.read_text())
        self.labels = self.spec["labels"]
        later = options.attempt > 1 and "steps_later" in self.labels
        self.total = int(self.labels["steps_later" if later else "steps"])
        self.step, self.digest, self.saves = 0, "", 0
        self.stop = threading.Event()

    def tell(self, kind: str, **values: Any) -> None:
        os.write(self.options.events_fd, json.dumps({"kind": kind, **values}).encode() + b"\n")

    def run(self) -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.signal(signal.SIGTERM, lambda *_: self.labels.get("deaf") or self.stop.set())
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        print(f"attempt {self.options.attempt} begins", flush=True)
        self.tell("resolved", spec=self.spec)
        self.tell("phase", phase="training")
        if self.options.resume:
            state = json.loads(self.options.resume.read_text())
            self.step, self.digest = state["step"], state["digest"]
        while self.step < self.total:
            if self.stop.is_set():
                self.save()
                return EXIT_SAVED
            self.take_step()
        for given in self.options.teacher_weights:
            place, _, path = given.partition("=")
            self.deliver(f"taught-by-{place}.txt", Path(path).read_text())
        self.tell("finished", summary="counted", models=[self.deliver_student()])
        return 0

    def take_step(self) -> None:
        time.sleep(float(self.labels.get("pace", "0.01")))
        self.step += 1
        self.digest = hashlib.sha256(f"{self.digest}{self.step}".encode()).hexdigest()
        if "trace" in self.labels:
            with Path(self.labels["trace"]).open("a") as trace:
                trace.write(f"{self.options.attempt} {self.step} {os.getpid()}\n")
        self.tell("progress", step=self.step, progress={"phase": "training", "step": self.step})
        self.tell("metrics", step=self.step, values={"training/loss": 1 / self.step})
        if self.step % int(self.labels.get("every", "5")) == 0:
            self.save()
        if self.step == self.ends_at:
            self.end()

    @property
    def ends_at(self) -> int:
        given = self.labels.get("at", "0").split(",")
        return int(given[0] if len(given) == 1 else [*given, "0"][min(self.options.attempt - 1, len(given))])

    def end(self) -> None:
        if "once" in self.labels and self.options.attempt > 1:
            return
        match self.labels["ending"]:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise RuntimeError("the tiny trainer was told to raise")
            case "fail":
                error = {"type": "urn:distillery:error:diverged", "title": "Training diverged", "code": "DIVERGED"}
                self.tell("failed", error={**error, "detail": "The loss was nan.", "hint": "Lower the rate."})
                sys.exit(1)
            case "leave":
                sys.exit(0)
            case "freeze":
                threading.Event().wait()
            case "halt":
                self.halt()
            case "hold":
                self.hold()
            case "grandchild":
                self.leave_a_grandchild()

    def hold(self) -> None:
        go = Path(self.labels["trace"]).with_name("go")
        while not go.exists() and not self.stop.wait(0.02):
            pass

    def leave_a_grandchild(self) -> None:
        code = "import time; time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", code], pass_fds=(self.options.events_fd,))
        self.tell("warning", message="a grandchild holds the pipe", data={"pid": child.pid})

    def halt(self) -> None:
        parted = self.options.micro_batches >= int(self.labels.get("needs_parts", "2"))
        if not parted and self.labels["run"] not in self.options.halve_rate:
            told = {"reason": self.labels["reason"], "run": self.labels["run"]}
            self.tell("halted", detail=f"The tiny trainer halted at step {self.step}.", **told)
            sys.exit(EXIT_HALTED)

    def save(self) -> None:
        folder = self.options.out / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        self.saves += 1
        path = folder / f"{self.saves}-step-{self.step}.ckpt"
        ballast = " " * int(self.labels.get("ballast", "0"))
        content = json.dumps({"step": self.step, "digest": self.digest, "ballast": ballast})
        partial = path.with_suffix(".part")
        partial.write_text(content)
        partial.replace(path)
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        saved = {"path": str(path), "sha256": sha256, "size_bytes": len(content)}
        self.tell("checkpoint", step=self.step, phase="training", **saved)

    def deliver(self, name: str, content: str) -> str:
        path = self.options.out / name
        path.write_text(content)
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        facts = {"sha256": sha256, "size_bytes": len(content.encode())}
        self.tell("artifact", name=name, path=str(path), media_type="text/plain", **facts)
        return sha256

    def deliver_student(self) -> dict[str, Any]:
        self.deliver("teacher.safetensors", "a teacher")
        sha256 = self.deliver("student.safetensors", self.digest)
        looks = {"image_size": 8, "channels": 1, "mean": [0.5], "std": [0.5], "classes": ["0", "1"], "accuracy": 0.5}
        name = "student.safetensors"
        return {"role": "student", "artifact": name, "architecture": "seed_student", "sha256": sha256, **looks}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--teacher-weights", action="append", default=[])
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--halve-rate", action="append", default=[])
    parser.add_argument("--events-fd", type=int, required=True)
    return TinyTrainer(parser.parse_args()).run()


if __name__ == "__main__":
    sys.exit(main())
