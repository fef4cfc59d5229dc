"""The cluster's stock in nouns: GPUs by network domain, training that could be taken, what is lent and what comes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DomainStock:
    """GPUs of one accelerator type in one network domain, on nodes that take pods.

    Attributes:
        accelerator: its type. domain: label values from the widest level to the narrowest; "" where a node has none.
        nodes: how many. gpus: theirs in all; free, terminating (coming free), serving (our pools'), other are parts.
    """

    accelerator: str
    domain: tuple[str, ...]
    nodes: int
    gpus: int
    free: int
    terminating: int
    serving: int
    other: int


@dataclass(frozen=True, slots=True)
class Gang:
    """Training that may be taken, as a whole or not at all.

    Attributes:
        key: `Kind/namespace/name` of what would be suspended. accelerator, gpus: what it holds.
        priority: of its pods. started_at, checkpoint_at: Unix seconds; None: not said.
        domains: GPUs by network domain.
    """

    key: str
    accelerator: str
    gpus: int
    priority: int
    domains: tuple[tuple[tuple[str, ...], int], ...]
    started_at: float | None = None
    checkpoint_at: float | None = None


@dataclass(frozen=True, slots=True)
class Lent:
    """Training that was preempted for serving and waits for its GPUs. `since`: Unix seconds."""

    key: str
    accelerator: str
    gpus: int
    since: float


@dataclass(frozen=True, slots=True)
class Coming:
    """Nodes that were ordered and do not take pods yet. `since`: when ordered, Unix seconds."""

    key: str
    accelerator: str
    gpus: int
    stage: str
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Supply:
    """The cluster's stock at one moment: what is free, what could be taken, what is lent and what is coming."""

    at: float
    domains: tuple[DomainStock, ...] = ()
    gangs: tuple[Gang, ...] = ()
    lent: tuple[Lent, ...] = ()
    coming: tuple[Coming, ...] = ()
