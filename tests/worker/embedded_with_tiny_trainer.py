"""The real embedded worker, whose trainer is the tiny one."""

import logging
import signal
import sys
import threading
from pathlib import Path

from worker.attempt import Programs
from worker.embedded import serve

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    tiny = Path(__file__).with_name("tiny_trainer.py")
    serve(stop, programs=Programs(trainer=(sys.executable, str(tiny))))
