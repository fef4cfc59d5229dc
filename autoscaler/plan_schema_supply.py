"""The supply side of a problem file: sources, gangs, offers, domains; and the types all of the file is made of."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

MOST = 1_000_000

MOST_AMOUNT = 1e12
"""Amounts above this are mistakes, and would drown all others in the solver, which keeps about 16 digits."""

_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


def _number(value: Any) -> Any:
    """Of texts only what is a number in JSON and in YAML 1.2, and a text in YAML 1.1: 1e3 (there it is 1.0e+3)."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _whole(value: Any) -> Any:
    """2.0 is a whole number: JSON Schema says so, and programs write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Amount = Annotated[float, Field(ge=0, le=MOST_AMOUNT, allow_inf_nan=False, strict=True), BeforeValidator(_number)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True), BeforeValidator(_number)]
Positive = Annotated[float, Field(gt=0, le=MOST_AMOUNT, allow_inf_nan=False, strict=True), BeforeValidator(_number)]
Count = Annotated[int, Field(ge=0, le=MOST, strict=True), BeforeValidator(_whole)]
Some = Annotated[int, Field(ge=1, le=MOST, strict=True), BeforeValidator(_whole)]
Priority = Annotated[int, Field(ge=-(10**9), le=10**9, strict=True), BeforeValidator(_whole)]
Key = Annotated[str, Field(min_length=1, max_length=200)]


class Strict(BaseModel):
    """A part of the file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceFile(Strict):
    """A stock of GPUs."""

    key: Key
    tier: Literal["wake", "start", "preempt", "provision"] = "start"
    accelerator: Key
    gpus: Count | None = Field(None, description="none: no limit")
    lead_s: Amount
    price_per_gpu_hour: Amount = 1.0
    one_off_price: Amount = Field(0.0, description="per GPU, at every order")
    domain: str = ""
    fragment: Some | None = Field(None, description="GPUs that lie together in a node or NVLink domain")
    granularity: Some = Field(1, description="GPUs that come only together")
    only_for: tuple[Key, ...] = ()


class GangFile(Strict):
    """A training job; its GPUs come only all together."""

    key: Key
    accelerator: Key
    gpus: Some
    priority: Priority = 0
    lead_s: Amount = 45.0
    since_checkpoint_s: Amount = 0.0
    requeue_s: Amount = 0.0
    price_per_gpu_hour: Amount = 1.0
    min_run_s: Amount = 0.0
    ran_s: Amount = 0.0
    repreemptions: Amount = 0.0
    domain: str = ""
    fragment: Some | None = None
    group: str = ""
    held: StrictBool = False


class OfferFile(Strict):
    """Nodes that can be bought."""

    key: Key
    accelerator: Key
    gpus: Some
    price_per_hour: Amount
    lead_s: Amount
    min_billing_s: Amount = 0.0
    quota: Count | None = None
    domain: str = ""
    held: Count = 0
    paid_s: Amount = 0.0
    one_off_price: Amount = 0.0


class DomainFile(Strict):
    """A network domain and the load its link carries."""

    key: Key
    link: Amount | None = None
