"""Kinds of values in the configuration: what each may be, said in words when it is not, and as JSON Schema.

A `unit` in the schema is the unit of the number; the reference shows it.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Any, get_args
from urllib.parse import SplitResult, urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

LABEL_LENGTH = 63
"""Longest Kubernetes label value and longest DNS label (RFC 1123)."""
SUBDOMAIN_LENGTH = 253
"""Longest name of a Kubernetes object (RFC 1123 subdomain)."""
MASK = "***"

_LABEL_VALUE = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_PROMETHEUS_LABEL = r"^[a-zA-Z_][a-zA-Z0-9_]*$"
_HEADER_NAME = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
_CERTIFICATE_NAME = re.compile(
    r"(\*\.)?[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*"
)


def _string(pattern: str | None = None, longest: int | None = None, shortest: int = 1) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": "string", "minLength": shortest}
    if pattern is not None:
        schema["pattern"] = pattern
    if longest is not None:
        schema["maxLength"] = longest
    return WithJsonSchema(schema)


def _fits(text: str, pattern: str, longest: int, words: str) -> str:
    if len(text) > longest:
        raise ValueError(f"has {len(text)} characters; at most {longest} are possible in Kubernetes")
    if not re.fullmatch(pattern.strip("^$"), text):
        raise ValueError(words)
    return text


def _label_value(text: str) -> str:
    words = "use lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
    return _fits(text, _LABEL_VALUE, LABEL_LENGTH, words)


def _dns_label(text: str) -> str:
    words = "use lower-case letters, digits and '-', with a letter or digit at both ends"
    return _fits(text, _DNS_LABEL, LABEL_LENGTH, words)


def _subdomain(text: str) -> str:
    words = "use lower-case letters, digits and '-' in parts separated by '.', each with a letter or digit at both ends"
    return _fits(text, _SUBDOMAIN, SUBDOMAIN_LENGTH, words)


def _prometheus_label(text: str) -> str:
    if not re.fullmatch(_PROMETHEUS_LABEL.strip("^$"), text):
        near = re.sub(r"[^a-zA-Z0-9_]", "_", text)
        near = f"_{near}" if not near or near[0].isdigit() else near
        raise ValueError(
            f"Prometheus label names hold letters, digits and '_' only and begin with no digit, such as {near!r}"
        )
    if text.startswith("__"):
        raise ValueError("labels that begin with '__' are Prometheus' own; name one that the stored series carry")
    return text


def _split(url: str) -> SplitResult:
    """The parts. Raises ValueError, without repeating a password, when it is no http(s) address."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://, for example http://prometheus.monitoring:9090")
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("an address holds no spaces or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not an address: {error}") from None
    if not parts.hostname or port == 0:
        raise ValueError("names no host, or port 0; for example http://prometheus.monitoring:9090")
    return parts


def _base_address(url: str) -> str:
    parts = _split(url)
    if parts.query or parts.fragment:
        raise ValueError("give the base address only, without '?' and '#'")
    return url.rstrip("/")


def _endpoint(url: str) -> str:
    parts = _split(url)
    return url if parts.path.strip("/") or parts.query else f"{url.rstrip('/')}/metrics"


def masked(url: str) -> str:
    """The address with `***` for a password in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url
    name, colon, _ = user.partition(":")
    return urlunsplit(parts._replace(netloc=f"{name}:{MASK}@{host}" if colon else f"{MASK}@{host}"))


def _header_name(text: str) -> str:
    if not re.fullmatch(_HEADER_NAME.strip("^$"), text):
        raise ValueError("not a name of an HTTP header; use letters, digits and '-', such as X-Scope-OrgID")
    return text


def _header_text(text: str) -> str:
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("a header may hold printable ASCII only, without spaces or line ends around it")
    return text


def _secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text:
        raise ValueError("is empty; leave the key out, or give the secret")
    if set(text) == {"*"}:
        raise ValueError("is the mask that `tidegate config` prints, not the secret itself")
    if any(not character.isprintable() for character in text):
        raise ValueError("holds a line end or control character; check for one at its end")
    return secret


def _header_secret(secret: SecretStr) -> SecretStr:
    _header_text(_secret(secret).get_secret_value())
    return secret


def _file(path: str) -> str:
    if not path or "\0" in path:
        raise ValueError("must name a file (null where none is wanted)")
    return path


def _certificate_name(text: str) -> str:
    try:
        ip_address(text)
    except ValueError:
        if len(text) > SUBDOMAIN_LENGTH or not _CERTIFICATE_NAME.fullmatch(text):
            raise ValueError("must be a DNS name in ASCII or an IP address") from None
    return text


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Seconds = Annotated[float, Field(gt=0, le=86_400, json_schema_extra={"unit": "s"})]
SecondsOrNone = Annotated[float, Field(ge=0, le=86_400, json_schema_extra={"unit": "s"})]
"""0 switches it off."""
Spread = Annotated[float, Field(ge=1, le=100)]
"""A 90th percentile over its median."""
Gpus = Annotated[int, Field(ge=0, le=10_000_000, json_schema_extra={"unit": "GPUs"})]
SomeGpus = Annotated[int, Field(ge=1, le=100_000, json_schema_extra={"unit": "GPUs"})]
Replicas = Annotated[int, Field(ge=0, le=100_000, json_schema_extra={"unit": "replicas"})]
SomeReplicas = Annotated[int, Field(ge=1, le=100_000, json_schema_extra={"unit": "replicas"})]
Price = Annotated[float, Field(ge=0, le=1e6)]
SomePrice = Annotated[float, Field(gt=0, le=1e6)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
Name = Annotated[str, AfterValidator(_label_value), _string(_LABEL_VALUE, LABEL_LENGTH)]
Namespace = Annotated[str, AfterValidator(_dns_label), _string(_DNS_LABEL, LABEL_LENGTH)]
ObjectName = Annotated[str, AfterValidator(_subdomain), _string(_SUBDOMAIN, SUBDOMAIN_LENGTH)]
Label = Annotated[str, AfterValidator(_prometheus_label), _string(_PROMETHEUS_LABEL)]
Url = Annotated[
    str, AfterValidator(_base_address), PlainSerializer(masked, when_used="json"), _string(r"^https?://[^\s?#]+$")
]
Endpoint = Annotated[
    str, AfterValidator(_endpoint), PlainSerializer(masked, when_used="json"), _string(r"^https?://\S+$")
]
HeaderName = Annotated[str, AfterValidator(_header_name), _string(_HEADER_NAME)]
HeaderText = Annotated[str, Field(min_length=1), AfterValidator(_header_text)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
HeaderSecret = Annotated[SecretStr, AfterValidator(_header_secret)]
File = Annotated[str, AfterValidator(_file), _string()]
CertificateName = Annotated[str, AfterValidator(_certificate_name), _string(None, SUBDOMAIN_LENGTH)]
LowerCase = BeforeValidator(_lower)


def _numeric(annotation: Any) -> bool:
    return annotation in {int, float} or any(_numeric(part) for part in get_args(annotation) if not hasattr(part, "gt"))


class Door(BaseModel):
    """What every part of the configuration has in common: frozen, no unknown keys, no NaN, no boolean for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` and `on` as true, and Python counts true as 1."""
        if isinstance(value, bool) and _numeric(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("must be a number (YAML reads yes, no, on and off as true and false)")
        return value
