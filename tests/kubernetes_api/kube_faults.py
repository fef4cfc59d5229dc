"""Scripted faults: the ways a real API server fails its clients."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Lock

from kube_store import Refused


@dataclass(slots=True)
class Fault:
    """Answer matching requests with a Status. verbs, plural: which; empty for all. left: how many more times."""

    answer: Refused
    verbs: frozenset[str] = frozenset()
    plural: str = ""
    subresource: str | None = None
    left: int | None = None

    def hits(self, verb: str, plural: str, subresource: str) -> bool:
        if self.verbs and verb not in self.verbs:
            return False
        if self.plural and plural != self.plural:
            return False
        return self.subresource is None or subresource == self.subresource


@dataclass
class Faults:
    """What goes wrong at present."""

    scripted: list[Fault] = field(default_factory=list)
    down_until: float = 0.0
    slow_s: float = 0.0
    lost_answers: int = 0
    lock: Lock = field(default_factory=Lock)

    def down(self, seconds: float) -> None:
        """Every connection is closed without an answer for so long."""
        self.down_until = time.monotonic() + seconds

    @property
    def is_down(self) -> bool:
        return time.monotonic() < self.down_until

    def conflicts(self, times: int, plural: str = "") -> None:
        """So many writes are told that the object has been modified."""
        answer = Refused(
            409, "Conflict", "the object has been modified; please apply your changes to the latest version"
        )
        self._add(Fault(answer, frozenset({"update", "patch"}), plural, left=times))

    def throttle(self, times: int, retry_after_s: int = 1) -> None:
        """So many requests are told to come later."""
        answer = Refused(429, "TooManyRequests", "the server has received too many requests", retry_after=retry_after_s)
        self._add(Fault(answer, left=times))

    def forbid(self, plural: str, *verbs: str, subresource: str | None = None) -> None:
        """RBAC lacks these verbs (all when none is named) on a resource."""
        what = f"{plural}/{subresource}" if subresource else plural
        message = (
            f'{what} is forbidden: User "system:serviceaccount:tidegate-system:tidegate" cannot {"/".join(verbs)} it'
        )
        self._add(Fault(Refused(403, "Forbidden", message), frozenset(verbs), plural, subresource))

    def fail(self, times: int, plural: str = "", *verbs: str) -> None:
        """So many requests meet an internal error."""
        self._add(
            Fault(Refused(500, "InternalError", "etcdserver: leader changed"), frozenset(verbs), plural, left=times)
        )

    def lose_answers(self, times: int) -> None:
        """So many writes have their effect, but the connection breaks before the answer."""
        with self.lock:
            self.lost_answers += times

    def loses_this(self, verb: str, plural: str) -> bool:
        """Whether the answer to this one is lost."""
        with self.lock:
            lost = self.lost_answers > 0 and verb in {"create", "update", "patch", "delete"}
            lost = lost and plural not in {"leases", "events"}
            self.lost_answers -= lost
            return lost

    def _add(self, fault: Fault) -> None:
        with self.lock:
            self.scripted.append(fault)

    def clear(self) -> None:
        """All is well again."""
        with self.lock:
            self.scripted.clear()
            self.lost_answers = 0
        self.down_until = 0.0
        self.slow_s = 0.0

    def check(self, verb: str, plural: str, subresource: str) -> None:
        """Raises Refused when a fault is due."""
        with self.lock:
            for fault in self.scripted:
                if fault.hits(verb, plural, subresource) and fault.left != 0:
                    if fault.left is not None:
                        fault.left -= 1
                    raise fault.answer
