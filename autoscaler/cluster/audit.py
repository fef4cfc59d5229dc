"""What was done, why, and what became of it: a line of JSON per action, and an Event on the object.

{"at": 1750000000.0, "outcome": "done", "action": "Preempt", "about": "Job/ml/train", "what": "…", "why": "…", …}
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from autoscaler.cluster import kinds
from autoscaler.cluster.api import ApiError
from autoscaler.cluster.hand import short_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from autoscaler.cluster.actions import Action
    from autoscaler.cluster.api import Api, Json, Resource

log = structlog.get_logger(__name__)
LONGEST_NOTE = 1000
"""An Event's note has at most 1,024 characters."""
REASONS = {
    "SetReplicas": "DesiredReplicasChanged",
    "Clamp": "DesiredReplicasChanged",
    "Preempt": "TrainingPreempted",
    "GiveBack": "TrainingGivenBack",
    "Provision": "NodesRequested",
    "ReleaseNode": "NodeReturned",
    "LoadWeights": "WeightsRequested",
    "MarkCosts": "ReleaseOrderSet",
    "LowerBuffer": "CapacityBufferLowered",
    "Drain": "DrainStarted",
    "Undrain": "DrainUndone",
    "LeaveFirst": "Drained",
    "Sleep": "EngineSleeps",
    "Wake": "EngineWoken",
    "PullImage": "ImageRequested",
    "TellSources": "WeightsSourcesTold",
}


class Audit:
    """Appends to a file that is turned over to `<name>.1` beyond `most_bytes`; None writes none."""

    def __init__(self, path: Path | None, most_bytes: int = 16_000_000) -> None:
        self._path, self._most_bytes = path, most_bytes
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, at: float, outcome: str, action: Action, said: str) -> None:
        """Note what became of an action; a full disk costs the note, not the action."""
        line: Json = {
            "at": at,
            "outcome": outcome,
            "action": type(action).__name__,
            "about": action.about,
            "for": str(action.role) if action.role else None,
            "what": action.what,
            "why": action.reason,
            "said": said,
        }
        log.info("action", **line)
        if self._path is None:
            return
        text = json.dumps(line, separators=(",", ":")) + "\n"
        try:
            if self._path.exists() and self._path.stat().st_size + len(text) > self._most_bytes:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            log.warning("cannot write down the action", file=str(self._path), reason=str(error))


class Events:
    """events.k8s.io/v1 Events on what was acted on. One that cannot be written is left out."""

    def __init__(self, api: Api, served: Callable[[], Mapping[str, Resource]], holder: str) -> None:
        self._api, self._served, self._holder = api, served, holder
        self._complained = False

    def tell(self, at: float, action: Action, said: str, *, warn: bool = False) -> None:
        """Say on the object what was done to it."""
        resource = self._served().get(kinds.EVENTS)
        kind, namespace, name = (*action.about.split("/", 2), "", "")[:3]
        if resource is None or kind in {"Pods", "Node"}:
            return
        where = namespace or "default"
        reason = REASONS[type(action).__name__]
        regarding: Json = {"kind": kind, "name": name, **({"namespace": namespace} if namespace else {})}
        body: Json = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{name[:200]}.{short_id(at, action.about, reason)}", "namespace": where},
            "eventTime": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "tidegate.dev/tidegate",
            "reportingInstance": self._holder[:128],
            "action": type(action).__name__,
            "reason": reason,
            "type": "Warning" if warn else "Normal",
            "regarding": regarding,
            "note": f"{action.what}: {said}; {action.reason}"[:LONGEST_NOTE],
        }
        try:
            self._api.create(resource, where, body)
        except ApiError as error:
            if not self._complained:
                log.warning("events cannot be written", reason=error.message)
            self._complained = True
