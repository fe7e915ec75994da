"""The real Celery worker, whose trainer is the tiny one."""

import sys
from pathlib import Path

from worker.attempt import Programs
from worker.serve import worker_options
from worker.tasks import make_app

if __name__ == "__main__":
    tiny = Path(__file__).with_name("tiny_trainer.py")
    app = make_app(programs=Programs(trainer=(sys.executable, str(tiny))))
    app.worker_main(worker_options(queues="default"))
