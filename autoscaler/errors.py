"""One error tree.

TidegateError
├── BadSettings       the configuration cannot be used: file, path, value, what would be right   (exit code 2)
├── BadMemory         a saved memory cannot be read; the loop starts in caution, without history
├── BadJournal        a journal line cannot be read: file and line number                        (exit code 2)
└── CannotSee         the metric source as a whole could not be read; the loop holds the last decision
"""

from __future__ import annotations


class TidegateError(Exception):
    """Anything Tidegate itself raises on purpose; its text is meant for a person."""


class BadSettings(TidegateError):  # noqa: N818 - named as it is said
    """The configuration cannot be used. Carries one sentence per problem."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BadMemory(TidegateError):  # noqa: N818 - named as it is said
    """A saved memory cannot be read."""


class BadJournal(TidegateError):  # noqa: N818 - named as it is said
    """A journal cannot be read."""


class CannotSee(TidegateError):  # noqa: N818 - named as it is said
    """The metric source as a whole could not be read. The loop catches exactly this class."""
