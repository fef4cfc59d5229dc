"""Certificates: what is wrong is said by file, what is ours is kept and renewed, and keys stay private."""

import os
import shutil
import ssl
import stat
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from metrics_adapter.tls import SelfSigned, ServingCertificate, TlsError, load, self_signed, service_names

NOW = datetime.now(UTC).timestamp()
DAY = 86400.0
HALF_PEM = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
NAMES = service_names("tidegate", "tidegate-system")


def serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def handshake(server: ssl.SSLContext, ca_bundle: str, name: str = "localhost") -> int:
    """A TLS handshake in memory; the serial number of the certificate the client was shown."""
    client = ssl.create_default_context(cadata=ca_bundle)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [ours, theirs]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting
    der = ours.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


@pytest.fixture
def own(tmp_path: Path) -> SelfSigned:
    return self_signed(tmp_path / "own", NAMES, NOW)


def test_a_self_signed_certificate_is_good_for_every_name(own: SelfSigned) -> None:
    context = load(own.cert, own.key, NOW)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    for name in ("tidegate.tidegate-system.svc", "localhost", "127.0.0.1"):
        assert handshake(context, own.ca_bundle, name) == serial(own.cert)
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        handshake(context, own.ca_bundle, "tidegate.other.svc")


def test_another_ca_does_not_vouch_for_it(own: SelfSigned, tmp_path: Path) -> None:
    stranger = self_signed(tmp_path / "stranger", NAMES, NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(load(own.cert, own.key, NOW), stranger.ca_bundle)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_agrees_with_the_chain(own: SelfSigned, tmp_path: Path) -> None:
    ca = tmp_path / "bundle.pem"
    ca.write_text(own.ca_bundle)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(ca), str(own.cert)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_keys_are_private_and_nothing_half_written_stays(own: SelfSigned) -> None:
    directory = own.cert.parent
    assert sorted(path.name for path in directory.iterdir()) == [".lock", "ca.crt", "ca.key", "tls.crt", "tls.key"]
    for name in ("ca.key", "tls.key"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    own.key.chmod(0o644)
    self_signed(directory, NAMES, NOW)
    assert stat.S_IMODE(own.key.stat().st_mode) == 0o600


def test_a_good_certificate_is_kept(own: SelfSigned) -> None:
    before = serial(own.cert)
    again = self_signed(own.cert.parent, tuple(reversed(NAMES)), NOW + 300 * DAY)
    assert again == own
    assert serial(own.cert) == before


def test_it_is_renewed_thirty_days_before_its_end_under_the_same_ca(own: SelfSigned) -> None:
    """365 days of life: on day 335 (less a minute) it stays, from day 335 on it is renewed."""
    before = serial(own.cert)
    self_signed(own.cert.parent, NAMES, NOW + 335 * DAY - 60)
    assert serial(own.cert) == before
    renewed = self_signed(own.cert.parent, NAMES, NOW + 335 * DAY + 60)
    assert serial(own.cert) != before
    assert renewed.ca_bundle == own.ca_bundle


def test_other_names_need_another_certificate(own: SelfSigned) -> None:
    before = serial(own.cert)
    renewed = self_signed(own.cert.parent, ("localhost", "::1"), NOW)
    assert serial(own.cert) != before
    assert renewed.ca_bundle == own.ca_bundle
    assert handshake(load(own.cert, own.key, NOW), own.ca_bundle, "::1") == serial(own.cert)


def test_an_ageing_ca_is_replaced_with_what_it_signed(own: SelfSigned) -> None:
    later = self_signed(own.cert.parent, NAMES, NOW + 3300 * DAY)
    assert later.ca_bundle != own.ca_bundle


@pytest.mark.parametrize("damaged", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
@pytest.mark.parametrize("content", [None, b"", b"garbage\x00\xff", HALF_PEM])
def test_a_damaged_file_is_made_anew(own: SelfSigned, damaged: str, content: bytes | None) -> None:
    path = own.cert.parent / damaged
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    mended = self_signed(own.cert.parent, NAMES, NOW)
    assert handshake(load(mended.cert, mended.key, NOW), mended.ca_bundle) == serial(mended.cert)


def test_a_certificate_of_a_stranger_is_replaced(own: SelfSigned, tmp_path: Path) -> None:
    stranger = self_signed(tmp_path / "stranger", NAMES, NOW)
    shutil.copy(stranger.cert, own.cert)
    shutil.copy(stranger.key, own.key)
    mended = self_signed(own.cert.parent, NAMES, NOW)
    assert mended.ca_bundle == own.ca_bundle
    assert serial(own.cert) != serial(stranger.cert)


def test_processes_that_share_a_directory_agree(tmp_path: Path) -> None:
    made: list[SelfSigned] = []
    threads = [
        threading.Thread(target=lambda: made.append(self_signed(tmp_path / "shared", NAMES, NOW))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len({result.ca_bundle for result in made}) == 1
    load(made[0].cert, made[0].key, NOW)


def test_a_directory_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(TlsError, match=f"{blocked}: cannot keep a certificate there"):
        self_signed(blocked, NAMES, NOW)


@pytest.mark.parametrize("names", [(), ("münchen.example",)])
def test_names_that_no_certificate_can_carry_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(TlsError, match="name"):
        self_signed(tmp_path, names, NOW)


def test_load_names_the_file_and_the_trouble(own: SelfSigned, tmp_path: Path) -> None:
    stranger = self_signed(tmp_path / "stranger", NAMES, NOW)
    missing, junk = tmp_path / "missing.pem", tmp_path / "junk.pem"
    junk.write_bytes(b"\x00\xffnot PEM")
    locked = tmp_path / "locked.key"
    locked.write_bytes(_under_passphrase(own.key))
    for cert, key, now, trouble in (
        (missing, own.key, NOW, "missing.pem: no such file"),
        (own.cert, missing, NOW, "missing.pem: no such file"),
        (tmp_path, own.key, NOW, "cannot be read: Is a directory"),
        (junk, own.key, NOW, "junk.pem: holds no PEM certificate"),
        (own.cert, junk, NOW, "junk.pem: holds no PEM private key"),
        (own.key, own.key, NOW, "tls.key: holds no PEM certificate"),
        (own.cert, own.cert, NOW, "tls.crt: holds no PEM private key"),
        (own.cert, locked, NOW, "locked.key: the key is under a passphrase"),
        (own.cert, stranger.key, NOW, "does not belong to the certificate in"),
        (own.cert, own.key, NOW + 366 * DAY, "tls.crt: expired on"),
        (own.cert, own.key, NOW - 2 * DAY, "tls.crt: not valid before"),
    ):
        with pytest.raises(TlsError, match=trouble):
            load(cert, key, now)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_load_names_an_unreadable_file(own: SelfSigned) -> None:
    own.key.chmod(0)
    with pytest.raises(TlsError, match=r"tls\.key: cannot be read: Permission denied"):
        load(own.cert, own.key, NOW)


def test_a_changed_pair_is_served_and_a_broken_one_is_not(own: SelfSigned, tmp_path: Path) -> None:
    serving = ServingCertificate(own.cert, own.key, lambda: NOW)
    first = serial(own.cert)
    assert handshake(serving.context, own.ca_bundle) == first
    own.cert.write_text("half a certific")
    assert handshake(serving.context, own.ca_bundle) == first
    own.cert.unlink()
    assert handshake(serving.context, own.ca_bundle) == first
    stranger = self_signed(tmp_path / "stranger", NAMES, NOW)
    shutil.copy(stranger.cert, own.cert)  # its key is still the old one
    assert handshake(serving.context, own.ca_bundle) == first
    shutil.copy(stranger.key, own.key)
    assert handshake(serving.context, stranger.ca_bundle) == serial(stranger.cert)


def test_an_expired_successor_does_not_replace_a_good_certificate(own: SelfSigned, tmp_path: Path) -> None:
    serving = ServingCertificate(own.cert, own.key, lambda: NOW)
    first = serial(own.cert)
    expired = self_signed(tmp_path / "expired", NAMES, NOW - 400 * DAY)
    shutil.copy(expired.key, own.key)
    shutil.copy(expired.cert, own.cert)
    assert handshake(serving.context, own.ca_bundle) == first


def test_a_served_certificate_is_refreshed_before_its_end(tmp_path: Path) -> None:
    """A process that started 340 days ago: the hourly refresh renews the files, the next handshake shows them."""
    now = NOW - 340 * DAY
    old = self_signed(tmp_path, NAMES, now)
    asked: list[float] = []

    def refresh() -> None:
        asked.append(now)
        self_signed(tmp_path, NAMES, now)

    serving = ServingCertificate(old.cert, old.key, lambda: now, refresh)
    first = handshake(serving.context, old.ca_bundle)
    now = NOW
    second = handshake(serving.context, old.ca_bundle)
    handshake(serving.context, old.ca_bundle)
    assert second != first
    assert asked == [NOW]


def test_a_failing_refresh_keeps_the_certificate(own: SelfSigned) -> None:
    now = NOW

    def refresh() -> None:
        raise TlsError("disk full")

    serving = ServingCertificate(own.cert, own.key, lambda: now, refresh)
    now = NOW + DAY
    assert handshake(serving.context, own.ca_bundle) == serial(own.cert)


def _under_passphrase(key: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - used by this one case only
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    private = load_pem_private_key(key.read_bytes(), None)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
