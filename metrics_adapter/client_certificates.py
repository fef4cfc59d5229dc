"""Client certificates of TLS connections: asked for, checked by OpenSSL, and told to whoever answers the request.

A kube-apiserver proves who it is by a client certificate; anyone else may come without one. A certificate that fails
the check must get an answer in words (401), as from any aggregated API server, and Python's `ssl` can only break the
handshake off. So the failing check is noted instead, through OpenSSL's own verification callback
(`SSL_CTX_set_verify`, man page SSL_CTX_set_verify(3)). A certificate counts as verified only where OpenSSL said "good"
for every certificate of the chain in this very handshake; a resumed session says nothing and so counts as none. Where
the callback cannot be installed, a bad certificate ends in a TLS alert.
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Callable

_X509_V_OK = 0
_VERIFY_PEER = 1
_DEPTH_ERRORS = {
    7: "signed by another CA",
    9: "not valid yet",
    10: "expired",
    18: "self-signed",
    19: "signed by another CA",
    20: "signed by another CA",
    21: "signed by another CA",
    23: "revoked",
    26: "not for client authentication",
}


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What a client showed: `common_name` of a verified certificate, or `problem` in words with one that is not."""

    common_name: str | None = None
    problem: str | None = None
    generation: int = 0


class _Checking(threading.local):
    peer: PeerObject | None = None


_checking = _Checking()


class PeerObject(ssl.SSLObject):
    """One connection's TLS state, with what was found out about the client's certificate."""

    problem: str | None = None
    good = 0
    generation = 0

    def do_handshake(self) -> None:
        """As the parent's; what OpenSSL finds out about a client's certificate meanwhile is noted here."""
        _checking.peer = self
        try:
            super().do_handshake()
        finally:
            _checking.peer = None

    def client(self) -> ClientCertificate | None:
        """The client's certificate; None when it showed none."""
        leaf = self.getpeercert(binary_form=True)
        if leaf is None:
            return None
        # A context of the newest trust may have replaced the one the connection began with.
        generation = getattr(self.context, "generation", 0)
        if self.problem is not None:
            return ClientCertificate(problem=self.problem, generation=generation)
        if not self.good and getattr(self.context, "notes_failures", True):
            return ClientCertificate(problem="not checked in this session", generation=generation)
        try:
            names = x509.load_der_x509_certificate(leaf).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        except ValueError as error:
            return ClientCertificate(problem=f"not readable ({error})", generation=generation)
        return ClientCertificate(common_name=str(names[0].value) if names else "", generation=generation)


class ClientAwareContext(ssl.SSLContext):
    """A server context that asks clients for a certificate without insisting on one."""

    sslobject_class = PeerObject
    generation = 0
    notes_failures = False

    def ask_clients(self, authorities: str, generation: int) -> None:
        """Ask for certificates signed by these authorities (PEM; empty: none is good).

        Raises:
            ssl.SSLError: no certificate in `authorities`.
        """
        self.generation = generation
        if authorities:
            self.load_verify_locations(cadata=authorities)
        self.verify_mode = ssl.CERT_OPTIONAL
        self.options |= ssl.OP_NO_TICKET
        self.num_tickets = 0
        self.notes_failures = _note_failures(self)


def _noting(good: int, store: Any) -> int:
    """OpenSSL's verification callback: once per certificate of the chain, deepest first. 1 lets the handshake go on."""
    peer = _checking.peer
    if peer is None:
        return 0
    if good:
        peer.good += 1
    else:
        code = _library().X509_STORE_CTX_get_error(ctypes.c_void_p(store)) if store else _X509_V_OK
        _library().ERR_clear_error()  # else the next read of the handshake would take it for its own
        peer.problem = _DEPTH_ERRORS.get(code, f"not accepted (OpenSSL error {code})")
    return 1


_NOTING = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)(_noting)
"""Kept for as long as any context may call it."""


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """The OpenSSL that `ssl` itself uses, and no other copy in this process."""
    return ctypes.CDLL(getattr(_ssl, "__file__", None))


def _note_failures(context: ssl.SSLContext) -> bool:
    """Install the callback. `PySSLContext` has begun with `PyObject_HEAD SSL_CTX *ctx` since Python 3.2."""
    if sys.implementation.name != "cpython" or hasattr(sys, "_is_gil_enabled"):
        return False  # a free-threaded object has another head
    try:
        library = _library()
        install: Callable[..., Any] = library.SSL_CTX_set_verify
        mode: Callable[..., int] = library.SSL_CTX_get_verify_mode
        library.X509_STORE_CTX_get_error.restype = ctypes.c_int
    except (AttributeError, OSError):
        return False
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    if not pointer.value or mode(pointer) != _VERIFY_PEER:
        return False
    install(pointer, ctypes.c_int(_VERIFY_PEER), _NOTING)
    return True
