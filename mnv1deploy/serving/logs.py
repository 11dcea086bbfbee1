"""Logs as JSON, an object a line, on standard error."""

from __future__ import annotations

import logging
import sys
from datetime import datetime, timezone
from typing import Any

from mnv1deploy.report.console import to_json

LOGGER = logging.getLogger("mnv1deploy.serving")


def log(level: int, event: str, **facts: Any) -> None:
    """One event and what is to know of it."""
    LOGGER.log(level, event, extra={"facts": facts})


class JsonLines(logging.Formatter):
    """Time, level and event of a record, then its facts; an exception with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """See Formatter."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return to_json(line, indent=None)


def to_standard_error(*, requests: bool) -> None:
    """Has the service, and uvicorn's warnings, written there; ``requests`` with a line for each of them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (
        (LOGGER.name, logging.INFO if requests else logging.WARNING),
        ("uvicorn.error", logging.WARNING),
    ):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
