"""Where log lines go and how they look."""

from __future__ import annotations

import logging
import sys

import structlog


def start_logs(level: str) -> None:
    """Structured logs on stderr, one line each: coloured on a terminal, key=value otherwise."""
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # the stderr of the moment, not of the start
        cache_logger_on_first_use=False,
    )
