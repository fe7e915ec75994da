"""The API's log: one JSON object a line on standard error. It is handed no bodies, queries, headers or keys."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


def json_log() -> logging.Logger:
    """A logger of its own: not in the process-wide tree, so that two applications in one process do not share it."""
    log = logging.Logger("distillery.api", logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    log.addHandler(handler)
    return log


def facts(**values: Any) -> dict[str, dict[str, Any]]:
    """What a line is to say besides its message, as the `extra` of a logging call."""
    return {"facts": values}


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
