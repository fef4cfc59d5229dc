"""Files named in the configuration, looked at before anything is started: a wrong path is a slip, not an outage."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.settings import Settings
    from autoscaler.settings_source import PrometheusSettings


def unreadable(settings: Settings) -> Iterator[str]:
    """Tokens and certificates the source needs and cannot use, as `path: what is wrong`. Contents are never told."""
    if settings.source.kind == "prometheus":
        yield from _prometheus(settings.source.prometheus)


def unwritable(settings: Settings) -> Iterator[str]:
    """Files the loop would write and cannot, as `path: what is wrong`. Nothing is created."""
    loop = settings.loop
    for name, text in (("loop.memory_file", loop.memory_file), ("loop.journal_file", loop.journal_file)):
        if text is not None:
            file = Path(text).absolute()
            problem = _unwritable(file)
            if problem is not None:
                yield f"{name}: {text} {problem}"


def _unwritable(file: Path) -> str | None:
    try:
        if file.exists() and not file.is_file():
            return "is a folder; name a file in it" if file.is_dir() else "is no ordinary file; name another"
        near = next(parent for parent in file.parents if parent.exists())
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    if not near.is_dir():
        return f"cannot be written: {near} is a file, not a folder"
    if not os.access(near, os.W_OK | os.X_OK) or (file.exists() and not os.access(file, os.W_OK | os.R_OK)):
        return f"cannot be written by this user: check the permissions of {near}"
    return None


def _prometheus(settings: PrometheusSettings) -> Iterator[str]:
    above = "source.prometheus"
    secrets = [(f"{above}.bearer_token_file", settings.bearer_token_file)]
    if settings.basic_auth is not None:
        secrets.append((f"{above}.basic_auth.password_file", settings.basic_auth.password_file))
    for name, file in secrets:
        if file is not None:
            problem = _unread(file) or _unfit(file)
            if problem is not None:
                yield f"{name}: {file} {problem}"
    if settings.ca_file is not None:
        problem = _unread(settings.ca_file) or _no_authorities(settings.ca_file)
        if problem is not None:
            yield f"{above}.ca_file: {settings.ca_file} {problem}"
    if settings.cert_file is not None and settings.key_file is not None:
        yield from _pair(above, settings.cert_file, settings.key_file)


def _pair(above: str, cert: str, key: str) -> Iterator[str]:
    unread = [(name, file, _unread(file)) for name, file in (("cert_file", cert), ("key_file", key))]
    for name, file, problem in unread:
        if problem is not None:
            yield f"{above}.{name}: {file} {problem}"
    if any(problem for _, _, problem in unread):
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asked: list[bool] = []

    def passphrase() -> str:  # without this, OpenSSL would ask on the terminal and wait
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(cert, key, passphrase)
    except (OSError, ValueError) as error:
        if asked:
            yield f"{above}.key_file: {key} is under a passphrase; give the key without one"
        else:
            reason = getattr(error, "reason", None) or error
            yield f"{above}.cert_file: {cert} and {key} are no PEM certificate and its key ({reason})"


def _unread(file: str) -> str | None:
    """Why a file cannot be read; None when it can and holds something."""
    path = Path(file)
    try:
        if path.is_dir():
            return "is a folder; name the file in it"
        if not path.is_file() and path.exists():
            return "is no ordinary file"
        return None if path.read_bytes().strip() else "is empty"
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _unfit(file: str) -> str | None:
    """Why what a file holds cannot go into a header."""
    text = Path(file).read_bytes().strip()
    fit = text.isascii() and text.decode("ascii").isprintable()
    return None if fit else "must hold one line of printable ASCII, and holds something else"


def _no_authorities(file: str) -> str | None:
    try:
        ssl.create_default_context(cafile=file)
    except (OSError, ValueError) as error:
        return f"holds no PEM certificates ({getattr(error, 'reason', None) or error})"
    return None
