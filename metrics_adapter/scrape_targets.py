"""What to scrape: a target and its labels, from a fixed list or from a Prometheus `file_sd` file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable
from urllib.parse import urlencode, urlsplit

import yaml

from metrics_adapter.signals import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_EXCERPT = 60  # characters of a wrong value that go into a message
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """One `/metrics` endpoint.

    Attributes:
        url: absolute http or https address, path included.
        labels: attached to each of its samples, as a scrape config would (pool, role, pod …); they win over labels the
            endpoint exposes under the same name, which become `exported_<name>`. `instance` is host:port unless given.

    Raises:
        ValueError: `url` is no http(s) address.
    """

    url: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            fine = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
        except ValueError as error:
            raise ValueError(f"target url {self.url!r}: {error}") from error
        if not fine:
            raise ValueError(f"target url {self.url!r} must look like http://host:port/metrics")

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """What makes it the same target from scrape to scrape: url and labels, as in Prometheus."""
        return self.url, tuple(sorted(self.labels.items()))

    @property
    def all_labels(self) -> dict[str, str]:
        """`labels` with `instance`."""
        return {"instance": self._instance, **self.labels}

    @property
    def shown(self) -> str:
        """The url for messages: without user, password and query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{self._instance}{parts.path}"

    @property
    def _instance(self) -> str:
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{host}:{parts.port or _PORTS[parts.scheme]}"


@runtime_checkable
class Noting(Protocol):
    """A target list that has something to say about itself, such as a file that could not be re-read."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Words for the reading's notes; empty when all is well."""
        ...


def static_targets(urls: Iterable[str], labels: Mapping[str, str] | None = None) -> Callable[[], Sequence[Target]]:
    """A list that never changes, every target with the same labels.

    Raises:
        ValueError: one of the urls is no http(s) address.
    """
    targets = tuple(Target(url, dict(labels or {})) for url in urls)
    return lambda: targets


class FileTargets:
    """A Prometheus `file_sd` file (JSON, or YAML by its suffix), read again whenever it changes.

    Format: https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config. The labels
    `__scheme__`, `__metrics_path__` and `__param_<name>` build the url; other labels that begin with `__` are dropped.
    A file that is gone, empty or half-written leaves the last good list in force, and a note; an empty list (`[]`)
    means no targets.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._stamp: tuple[int, int, int] | None = None
        self._good: tuple[Target, ...] | None = None
        self.notes: tuple[str, ...] = ()

    def __call__(self) -> Sequence[Target]:
        """The targets now.

        Raises:
            SourceError: the file has never been readable; names the file, the place in it and what would be right.
        """
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._good is None or stamp != self._stamp:
                self._good = tuple(_targets_of(self._document()))
                self._stamp = stamp
            self.notes = ()
        except (OSError, ValueError, yaml.YAMLError) as error:
            why = f"targets file {self._path}: {' '.join(str(error).split())}"
            if self._good is None:
                raise SourceError(why) from error
            self._stamp = None  # a writer may finish within the clock tick of the time stamp: look again every time
            self.notes = (f"{why}; keeping the last good list of {len(self._good)}",)
        return self._good

    def _document(self) -> object:
        text = self._path.read_text(encoding="utf-8")
        document: object = yaml.safe_load(text) if self._path.suffix in {".yml", ".yaml"} else json.loads(text)
        return document


def _targets_of(document: object) -> Iterable[Target]:
    shape = '{"targets": ["host:port", …], "labels": {…}}'
    _require(isinstance(document, list), f"must hold a list of {shape}", document)
    for place, group in enumerate(cast("list[Any]", document)):
        good = isinstance(group, dict) and isinstance(group.get("targets"), list)
        _require(good, f"[{place}] must be {shape}", group)
        addresses, labels = group["targets"], group.get("labels") or {}
        good = all(isinstance(address, str) for address in addresses)
        _require(good, f"[{place}].targets must be strings such as 'host:port'", addresses)
        good = isinstance(labels, dict) and all(isinstance(text, str) for pair in labels.items() for text in pair)
        _require(good, f"[{place}].labels must map names to strings (quote numbers)", labels)
        for address in addresses:
            try:
                yield _target(address, labels)
            except ValueError as error:
                raise ValueError(f"[{place}].targets: {error}") from error


def _require(good: bool, rule: str, value: object) -> None:
    if not good:
        shown = repr(value)
        raise ValueError(f"{rule}, not {shown[:_EXCERPT]}{'…' if len(shown) > _EXCERPT else ''}")


def _target(address: str, labels: dict[str, str]) -> Target:
    kept = {name: value for name, value in labels.items() if not name.startswith("__")}
    if "://" in address:
        return Target(address, kept)
    path = labels.get("__metrics_path__", "/metrics")
    query = urlencode({n.removeprefix("__param_"): v for n, v in labels.items() if n.startswith("__param_")})
    return Target(f"{labels.get('__scheme__', 'http')}://{address}{path}{'?' if query else ''}{query}", kept)
