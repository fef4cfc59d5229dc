"""One error tree.

TidegateError
├── BadSettings       the configuration cannot be used: file, path, value, what would be right   (exit code 2)
├── BadMemory         a saved memory cannot be read; the loop starts in caution, without history
├── BadJournal        a journal line cannot be read: file and line number                        (exit code 2)
├── BadTrace          a trace cannot be used: file, row, column, value (simulator/trace_files)   (exit code 2)
├── ApiError          the Kubernetes API refused or did not answer (cluster/api); NotLeader, Changed below it
├── DemoFailed        a part of the demonstration did not come up (demo/conductor)
└── CannotSee         the metric source as a whole could not be read; the loop holds the last decision
"""

from __future__ import annotations


class TidegateError(Exception):
    """Anything Tidegate itself raises on purpose; its text is meant for a person.

    `exit_code` is what the command line ends with: 2 where what was given cannot be used, 1 otherwise.
    """

    exit_code = 1


class BadSettings(TidegateError):  # noqa: N818 - named as it is said
    """The configuration cannot be used. Carries one sentence per problem."""

    exit_code = 2

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BadMemory(TidegateError):  # noqa: N818 - named as it is said
    """A saved memory cannot be read."""


class BadJournal(TidegateError):  # noqa: N818 - named as it is said
    """A journal cannot be read."""

    exit_code = 2


class CannotSee(TidegateError):  # noqa: N818 - named as it is said
    """The metric source as a whole could not be read. The loop catches exactly this class."""
