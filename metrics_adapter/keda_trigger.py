"""What a KEDA trigger asks for, and the board's answer to it: pure functions, no network.

A trigger names its pool (and role, where the pool has several) in its metadata; the namespace is the ScaledObject's
own. KEDA hands on every key of the metadata, its own among them, so keys nobody knows are ignored unless asked not to.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Metric, Refusal, RefusalKind
from metrics_adapter.selectors import Operator, Requirement, Selector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from metrics_adapter.board import Answer, Board, Freshness

VARIANT_LABEL = "tidegate.dev/variant"
POOL, ROLE, VARIANT = "pool", "role", "variant"
OUR_KEYS = (POOL, ROLE, VARIANT)
KEDA_KEYS = frozenset({"scalerAddress", "enableTLS", "unsafeSsl", "caCert", "tlsClientCert", "tlsClientKey"})
"""What KEDA itself reads from the metadata and hands on."""
ROLES = ("prefill", "decode", "colocated")
SHOWN = 80
REMEMBERED = 16_384
"""Triggers kept as they were read: each is asked for again every few seconds. Fewer than there are would help none of
them, for they come round in turn."""
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Trigger:
    """Whose wish is asked for; `role` and `variant` None: the pool has only one."""

    namespace: str
    pool: str
    role: str | None = None
    variant: str | None = None

    def __str__(self) -> str:
        """`namespace/pool/role/variant`, as far as given."""
        return "/".join(part for part in (self.namespace, self.pool, self.role, self.variant) if part)


@dataclass(frozen=True, slots=True)
class BadTrigger:
    """Metadata nobody can act on, and what would be right."""

    message: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The one number that was asked for, in replicas."""

    replicas: float
    freshness: Freshness


def trigger(namespace: str, metadata: Mapping[str, str]) -> Trigger | BadTrigger:
    """The trigger that metadata describes."""
    if not _LABEL_VALUE.fullmatch(namespace):
        return BadTrigger(f"namespace {shown(namespace)}: the ScaledObject's namespace is missing or no name")
    for key in OUR_KEYS:
        value = metadata.get(key)
        if value is not None and not _LABEL_VALUE.fullmatch(value):
            return BadTrigger(
                f"metadata {key}: {shown(value)} is no name; use at most 63 letters, digits, '-', '_' and '.'"
            )
    pool, role = metadata.get(POOL), metadata.get(ROLE)
    if pool is None:
        keys = ", ".join(shown(key) for key in sorted(metadata.keys() - KEDA_KEYS)[:5]) or "none"
        return BadTrigger(f"metadata pool: is missing (keys given: {keys}); name the pool, such as pool: chat")
    if role is not None and role not in ROLES:
        return BadTrigger(f"metadata role: {shown(role)} is not one of {', '.join(ROLES)}")
    return Trigger(namespace, pool, role, metadata.get(VARIANT))


def strangers(metadata: Mapping[str, str]) -> Iterator[str]:
    """One sentence per key that neither we nor KEDA read."""
    for key in sorted(metadata):
        plain = key.removesuffix("FromEnv")
        if plain not in KEDA_KEYS and plain not in OUR_KEYS:
            near = difflib.get_close_matches(key, OUR_KEYS, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"keys are {', '.join(OUR_KEYS)}"
            yield f"metadata {shown(key)}: nobody reads this key; {hint}"


def reply(board: Board, asked: Trigger) -> Reply | Refusal | BadTrigger:
    """The replicas decided for, while they may be obeyed; else why not."""
    answer = board.answer(asked.namespace, Metric.DESIRED, _selector(asked))
    if isinstance(answer, Refusal):
        return _named(answer, asked)
    if len(answer.readings) > 1 and asked.variant is None:
        answer = _whole(board, asked, answer)
    if isinstance(answer, Refusal):
        return answer
    if len(answer.readings) > 1:
        return BadTrigger(_ambiguous(asked, answer))
    return Reply(answer.readings[0].value, answer.freshness)


def activity(board: Board, asked: Trigger) -> bool | Refusal | BadTrigger:
    """Whether any replica is wanted, by the last decision however old: age is `reply`'s business.

    KEDA asks this after the value, and lets a target idle on False; so what is not known is a refusal, never False.
    """
    snapshot = board.latest()
    if snapshot is None:
        return Refusal(RefusalKind.UNDECIDED, "no decision yet: the loop has not finished its first tick")
    matched = snapshot.matching(asked.namespace, Metric.DESIRED, _selector(asked))
    if len(matched) > 1 and asked.variant is None:
        matched = [wish for wish in matched if VARIANT_LABEL not in wish.labels] or matched
    if not matched:
        return _named(Refusal(RefusalKind.UNKNOWN, ""), asked)
    if len(matched) > 1:
        return BadTrigger(f"{asked}: {len(matched)} roles or variants match; name one with role or variant")
    wish = matched[0]
    if wish.disabled is not None:
        return Refusal(RefusalKind.DISABLED, f"{wish.name} is disabled: {wish.disabled}")
    desired = wish.values.get(Metric.DESIRED)
    if desired is None:
        return Refusal(RefusalKind.ABSENT, f"{Metric.DESIRED} of {wish.name} is not known: nobody reported it")
    return desired > 0


def shown(text: str) -> str:
    """Foreign text for a message: quoted, no control characters, cut."""
    return ascii(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def _whole(board: Board, asked: Trigger, several: Answer) -> Answer | Refusal:
    """Where a role is published both as a whole and by variant, the whole is meant."""
    if not any(VARIANT_LABEL in reading.labels for reading in several.readings):
        return several
    whole = board.answer(asked.namespace, Metric.DESIRED, _selector(asked, whole=True))
    unknown = isinstance(whole, Refusal) and whole.kind is RefusalKind.UNKNOWN
    return several if unknown else whole


def _named(refusal: Refusal, asked: Trigger) -> Refusal:
    if refusal.kind is not RefusalKind.UNKNOWN:
        return refusal
    return Refusal(refusal.kind, f"no wish is published for {asked}: is it in Tidegate's configuration?")


def _ambiguous(asked: Trigger, answer: Answer) -> str:
    roles = sorted({reading.labels.get(ROLE_LABEL, "") for reading in answer.readings} - {""})
    variants = sorted({reading.labels.get(VARIANT_LABEL, "") for reading in answer.readings} - {""})
    key, values = (ROLE, roles) if len(roles) > 1 else (VARIANT, variants)
    return f"metadata {key}: is missing, and {asked} has several ({', '.join(values[:8])}); name one"


@lru_cache(maxsize=REMEMBERED)
def _selector(asked: Trigger, *, whole: bool = False) -> Selector:
    wanted = ((WORKLOAD_LABEL, asked.pool), (ROLE_LABEL, asked.role), (VARIANT_LABEL, asked.variant))
    made = [Requirement(key, Operator.EQUALS, (value,)) for key, value in wanted if value is not None]
    if whole:
        made.append(Requirement(VARIANT_LABEL, Operator.DOES_NOT_EXIST, ()))
    return Selector(tuple(made))
