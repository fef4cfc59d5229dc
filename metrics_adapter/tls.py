"""Serving certificates: loaded from files, reloaded when they change, or signed by a CA of our own.

A kube-apiserver only talks to us over TLS and verifies `<service>.<namespace>.svc` against the APIService's caBundle.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization import load_pem_private_key as load_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from metrics_adapter.client_certificates import ClientAwareContext
from metrics_adapter.files import replace_file, taking_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from metrics_adapter.identity import Trust

_log = structlog.get_logger(__name__)

CLOCK_SKEW = timedelta(minutes=5)
BACKDATED = timedelta(hours=1)  # so that a client whose clock runs behind accepts a certificate made just now
SERVER_LIFETIME = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
CA_LIFETIME = timedelta(days=3650)
REFRESH_EVERY = 3600.0
PRIVATE = 0o600
PUBLIC = 0o644

_Stamp = tuple[tuple[int, int, int, int] | int | None, ...]


class TlsError(Exception):
    """A certificate or key that cannot be used; the message names the file and what is wrong with it."""


def load(cert: Path, key: Path, now: float) -> ClientAwareContext:
    """A server context (TLS 1.2 or newer) with this chain and key, both PEM; `now` in Unix seconds.

    Raises:
        TlsError: a file that is missing, unreadable or not PEM; a key of another certificate or one under a
            passphrase; a certificate that is expired, or not valid for another five minutes or more.
    """
    leaf = _certificates(cert)[0]
    private = _private_key(key)
    if _public(private) != leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise TlsError(f"{key}: this key does not belong to the certificate in {cert}")
    at = datetime.fromtimestamp(now, UTC)
    if at >= leaf.not_valid_after_utc:
        raise TlsError(f"{cert}: expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC")
    if at + CLOCK_SKEW < leaf.not_valid_before_utc:
        raise TlsError(f"{cert}: not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC")
    context = ClientAwareContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password="")  # never a prompt on the terminal
    except (ssl.SSLError, OSError) as error:
        raise TlsError(f"{cert} with {key}: refused by the TLS library: {error}") from error
    return context


class ServingCertificate:
    """A server context whose certificate follows its files.

    Both files are looked at on every handshake (two `stat` calls). A changed pair is checked in full before it
    replaces the old one; a broken pair leaves the old one serving and is logged once per change. `refresh` is called
    at most once an hour, before the look, and may renew the files. With `trust`, clients are asked for a certificate,
    and its authorities followed in the same way.

    Raises:
        TlsError: as `load`, for the first pair.
    """

    def __init__(
        self,
        cert: Path,
        key: Path,
        clock: Callable[[], float],
        refresh: Callable[[], object] | None = None,
        trust: Callable[[], Trust | None] | None = None,
    ) -> None:
        self._cert = cert
        self._key = key
        self._clock = clock
        self._refresh = refresh
        self._trust = trust
        self._refreshed = clock()
        self._stamp = self._look()
        self._current = self._loaded(clock())
        self.context = self._current
        # OpenSSL calls this after every ClientHello, also one that names no server.
        self.context.sni_callback = self._choose

    def _choose(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        self._follow()
        if self._current is not self.context:
            handshake.context = self._current

    def _follow(self) -> None:
        now = self._clock()
        if self._refresh is not None and abs(now - self._refreshed) >= REFRESH_EVERY:
            self._refreshed = now
            try:
                self._refresh()
            except (TlsError, OSError, ValueError) as error:
                _log.error("certificate not renewed", cert=str(self._cert), error=str(error))
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._current = self._loaded(now)
        except (TlsError, ssl.SSLError) as error:
            _log.error("new certificate not usable, the old one stays", error=str(error))
        else:
            _log.info("certificate reloaded", cert=str(self._cert))

    def _look(self) -> _Stamp:
        trust = self._trust() if self._trust is not None else None
        return (*(_stamp(path) for path in (self._cert, self._key)), trust.generation if trust else None)

    def _loaded(self, now: float) -> ClientAwareContext:
        context = load(self._cert, self._key, now)
        if self._trust is not None:
            # Also before any are known: a handshake keeps the mode of the context it began with.
            trust = self._trust()
            context.ask_clients(trust.authorities if trust else "", trust.generation if trust else 0)
        return context


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """A certificate of our own CA; `ca_bundle` is the CA's PEM text, base64 of which goes into `caBundle`."""

    cert: Path
    key: Path
    ca_bundle: str


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """The names our certificate must carry: the aggregator's, and loopback for probes and trials."""
    return (f"{service}.{namespace}.svc", "localhost", "127.0.0.1")


def self_signed(directory: Path, names: Sequence[str], now: float) -> SelfSigned:
    """A CA and a server certificate for DNS names and IP addresses, kept in `directory`.

    What lies there is reused while it is whole, carries exactly these names and has 30 days left; the server
    certificate (365 days) is renewed under the same CA, so that a caBundle once handed out stays true, and the CA (10
    years) only when it could not outlive a new server certificate. Files appear atomically, keys with mode 0600;
    processes that share the directory take turns.

    Raises:
        TlsError: a directory that cannot be written, or a name that is neither a DNS name nor an IP address.
    """
    if not names:
        raise TlsError("a self-signed certificate needs at least one name, such as 'localhost'")
    wanted = [_general_name(name) for name in names]
    ca_cert, ca_key, cert, key = (directory / name for name in ("ca.crt", "ca.key", "tls.crt", "tls.key"))
    at = datetime.fromtimestamp(now, UTC)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with taking_turns(directory / ".lock"):
            authority = _pair(ca_cert, ca_key)
            if authority is None or not _lasts(authority[0], at, SERVER_LIFETIME + RENEW_BEFORE):
                authority = _new_ca(at)
                _store(ca_cert, ca_key, authority)
            server = _pair(cert, key)
            if server is None or not _fits(server[0], authority[0], wanted, at):
                _store(cert, key, _new_server(authority, wanted, at))
            for path in (ca_key, key):
                path.chmod(PRIVATE)
    except OSError as error:
        raise TlsError(f"{directory}: cannot keep a certificate there: {error}") from error
    return SelfSigned(cert, key, authority[0].public_bytes(Encoding.PEM).decode("ascii"))


_Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise TlsError(f"{path}: no such file") from error
    except OSError as error:
        raise TlsError(f"{path}: cannot be read: {error.strerror}") from error


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError as error:
        raise TlsError(f"{path}: holds no PEM certificate: {error}") from error


def _private_key(path: Path) -> PrivateKeyTypes:
    try:
        return load_key(_read(path), password=None)
    except TypeError as error:
        raise TlsError(f"{path}: the key is under a passphrase, want it in the clear") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TlsError(f"{path}: holds no PEM private key: {error}") from error


def _public(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        seen = path.stat()
    except OSError:  # a missing file is a state of its own; `load` says what is wrong with it
        return None
    return (seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_size)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise TlsError(f"certificate name {name!r}: want a DNS name in ASCII or an IP address") from error


def _pair(cert: Path, key: Path) -> _Pair | None:
    """The stored pair, or None when it is missing or damaged and has to be made anew."""
    if not (cert.exists() and key.exists()):
        return None
    try:
        certificate, private = _certificates(cert)[0], _private_key(key)
    except TlsError as error:
        _log.warning("stored certificate is damaged, making a new one", error=str(error))
        return None
    own = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or _public(private) != own:
        _log.warning("stored key and certificate do not match, making a new pair", cert=str(cert), key=str(key))
        return None
    return certificate, private


def _lasts(certificate: x509.Certificate, at: datetime, remaining: timedelta) -> bool:
    return certificate.not_valid_before_utc <= at and at + remaining < certificate.not_valid_after_utc


def _fits(
    certificate: x509.Certificate, authority: x509.Certificate, names: Sequence[x509.GeneralName], at: datetime
) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
        carried = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception as error:  # noqa: BLE001 - a foreign certificate may fail here in many ways; each means "not ours"
        _log.warning("stored certificate is not ours, making a new one", error=repr(error))
        return False
    return set(carried) == set(names) and _lasts(certificate, at, RENEW_BEFORE)


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: str, issuer: x509.Name, public: ec.EllipticCurvePublicKey, at: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_named(subject))
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - BACKDATED)
        .not_valid_after(at + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _new_ca(at: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # The time in the name keeps two CAs of ours apart: chains are built by name.
    name = f"tidegate-ca-{at:%Y%m%d%H%M%S}"
    certificate = (
        _builder(name, _named(name), key.public_key(), at, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _new_server(authority: _Pair, names: Sequence[x509.GeneralName], at: datetime) -> _Pair:
    ca, ca_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder("tidegate", ca.subject, key.public_key(), at, SERVER_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return certificate, key


def _store(cert: Path, key: Path, pair: _Pair) -> None:
    """Key first: a reader between the two renames sees a mismatch and keeps what it has."""
    certificate, private = pair
    replace_file(key, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), PRIVATE)
    replace_file(cert, certificate.public_bytes(Encoding.PEM), PUBLIC)
