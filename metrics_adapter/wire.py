"""How every door over HTTP speaks: compact JSON, Status failures, and selectors out of a query string."""

from __future__ import annotations

import json
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.responses import Response

from metrics_adapter.selectors import EVERYTHING, Selector, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

READ_ONLY = ("GET", "HEAD")
MAX_QUERY_FIELDS = 100
MAX_MESSAGE = 1024
LONG_QUERY = 512

_REASONS: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "BadRequest",
    HTTPStatus.UNAUTHORIZED: "Unauthorized",
    HTTPStatus.FORBIDDEN: "Forbidden",
    HTTPStatus.NOT_FOUND: "NotFound",
    HTTPStatus.METHOD_NOT_ALLOWED: "MethodNotAllowed",
    HTTPStatus.NOT_ACCEPTABLE: "NotAcceptable",
    HTTPStatus.CONFLICT: "Conflict",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RequestEntityTooLarge",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Invalid",
    HTTPStatus.TOO_MANY_REQUESTS: "TooManyRequests",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailable",
    HTTPStatus.GATEWAY_TIMEOUT: "Timeout",
}


def selector_of(query: bytes, name: str = "labelSelector") -> Selector:
    """The selector in a raw query string; the first parameter of that name counts, others are ignored.

    Raises:
        SelectorError: a selector outside the grammar (a ValueError, too).
        ValueError: bytes that are not UTF-8, or more than 100 parameters.
    """
    if not query:
        return EVERYTHING
    # Long ones are not kept: nobody's queries fill our memory.
    return _selector(query, name) if len(query) <= LONG_QUERY else _selector.__wrapped__(query, name)


@lru_cache(maxsize=8192)
def _selector(query: bytes, name: str) -> Selector:
    """As `selector_of`; each HPA asks the same every 15 s, and parsing is a quarter of an answer."""
    try:
        fields = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except UnicodeDecodeError as error:
        raise ValueError("the query string is not percent-encoded UTF-8") from error
    except ValueError as error:
        raise ValueError(f"the query string has more than {MAX_QUERY_FIELDS} parameters") from error
    text = next((value for key, value in fields if key == name), "")
    return parse(text) if text else EVERYTHING


def as_json(body: Mapping[str, Any], code: int = HTTPStatus.OK, media_type: str = "application/json") -> Response:
    """A JSON response that no cache keeps."""
    content = json.dumps(body, separators=(",", ":")).encode()
    return Response(content, status_code=code, media_type=media_type, headers={"Cache-Control": "no-cache, private"})


def status(code: int, message: str) -> Response:
    """A Kubernetes Status failure; `message` is what the operator will read, cut to 1,024 characters."""
    return as_json(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…",
            "reason": _REASONS.get(code, ""),
            "code": int(code),
        },
        code,
    )
