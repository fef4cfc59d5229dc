"""Secrets are in no output and no error, and files that hold them are looked at before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from typer.testing import CliRunner

from autoscaler import build
from autoscaler.cli import app
from autoscaler.configuration import load, load_settings
from autoscaler.credentials import unreadable, unwritable
from autoscaler.errors import BadSettings
from metrics_adapter.tls import self_signed

POOL = "pools: [{name: a, roles: {colocated: {max_replicas: 4}}}]\n"
SECRET = "hunter2hunter2"
NOW = 1_800_000_000.0


def written(folder: Path, prometheus: str) -> Path:
    file = folder / "tidegate.yaml"
    file.write_text(f"{POOL}source:\n  prometheus: {prometheus}\n", encoding="utf-8")
    return file


GOOD = (
    f"{{bearer_token: {SECRET}}}",
    f"{{basic_auth: {{username: u, password: {SECRET}}}}}",
    f"{{headers: {{Authorization: Bearer {SECRET}}}}}",
    f"{{url: 'https://u:{SECRET}@a:9090/x'}}",
)


@pytest.mark.parametrize("given", GOOD)
@pytest.mark.parametrize("how", [[], ["--json"]])
def test_config_masks_secrets(given: str, how: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["config", "--config", str(written(tmp_path, given)), *how])
    assert done.exit_code == 0
    assert SECRET not in done.output
    shown = json.loads(done.stdout) if how else yaml.safe_load(done.stdout)
    assert "***" in json.dumps(shown["source"]["prometheus"])


@pytest.mark.parametrize("given", GOOD)
def test_masked_secrets_still_reach_prometheus(given: str, tmp_path: Path) -> None:
    access = build.access(load_settings(written(tmp_path, given), {}).source.prometheus)
    assert SECRET in f"{access.url} {access.bearer_token} {access.password} {dict(access.headers)}"
    assert SECRET not in repr(load_settings(written(tmp_path, given), {}).source.prometheus.bearer_token)


WRONG = (
    f"{{bearer_token: [{SECRET}]}}",
    f"{{bearer_token: '{SECRET}\\n', bearer_token_file: x}}",
    f'{{bearer_token: "{SECRET}\\n"}}',
    f"{{bearer: {SECRET}}}",
    f"{{password: {SECRET}}}",
    f"{{basic_auth: {SECRET}}}",
    f"{{basic_auth: {{user: u, password: {SECRET}}}}}",
    f"{{basic_auth: {{password: {SECRET}}}}}",
    f"{{headers: [{SECRET}]}}",
    f"{{headers: {{X: [{SECRET}]}}}}",
    f"Bearer {SECRET}",
    f"{{url: 'ftp://u:{SECRET}@a'}}",
    f"{{url: 'https://u:{SECRET}@a?x'}}",
    f"{{url: 'https://u:{SECRET}@a', bearer_token: {SECRET}}}",
    f"{{bearer_token: !{SECRET} x}}",
    f"{{bearer_token: *{SECRET}}}",
    f"{{bearer_token: '{SECRET}', bearer_token: '{SECRET}'}}",
)


@pytest.mark.parametrize("given", WRONG)
def test_errors_do_not_repeat_secrets(given: str, tmp_path: Path) -> None:
    with pytest.raises(BadSettings) as caught:
        load_settings(written(tmp_path, given), {})
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("value", [f'{{"username": "u", "password": "{SECRET}"', f'"{SECRET}"', SECRET])
def test_errors_about_variables_do_not_repeat_secrets(value: str, tmp_path: Path) -> None:
    with pytest.raises(BadSettings) as caught:
        load_settings(written(tmp_path, "{}"), {"TIDEGATE_SOURCE__PROMETHEUS__BASIC_AUTH": value})
    assert SECRET not in str(caught.value)


def test_what_config_printed_is_not_taken_for_the_secret(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="is the mask that `tidegate config` prints"):
        load_settings(written(tmp_path, "{bearer_token: '**********'}"), {})


def test_files_are_read_before_the_start(tmp_path: Path) -> None:
    empty, two, text = tmp_path / "empty", tmp_path / "two", tmp_path / "text"
    empty.write_text("\n", encoding="utf-8")
    two.write_text("a\nb\n", encoding="utf-8")
    text.write_text("hello\n", encoding="utf-8")
    expected = {
        f"{{bearer_token_file: {tmp_path}/none}}": "bearer_token_file: .*/none does not exist",
        f"{{bearer_token_file: {tmp_path}}}": "bearer_token_file: .* is a folder; name the file in it",
        f"{{bearer_token_file: {empty}}}": "bearer_token_file: .*/empty is empty",
        f"{{bearer_token_file: {two}}}": "bearer_token_file: .*/two must hold one line of printable ASCII",
        f"{{basic_auth: {{username: u, password_file: {empty}}}}}": "basic_auth.password_file: .*/empty is empty",
        f"{{ca_file: {text}}}": "ca_file: .*/text holds no PEM certificates",
        f"{{cert_file: {text}, key_file: {text}}}": "cert_file: .* are no PEM certificate and its key",
        f"{{cert_file: {text}, key_file: {tmp_path}/none}}": "key_file: .*/none does not exist",
    }
    for given, sentence in expected.items():
        loaded = load(written(tmp_path, given), {})
        with pytest.raises(BadSettings, match=rf"tidegate.yaml:3: source\.prometheus\.{sentence}"), loaded.placing():
            build.parts(loaded.settings)


def test_a_key_under_a_passphrase_is_refused_instead_of_asked_for(tmp_path: Path) -> None:
    made = self_signed(tmp_path / "tls", ("localhost",), NOW)
    key = load_pem_private_key(made.key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    given = f"{{cert_file: {made.cert}, key_file: {locked}}}"
    assert "under a passphrase" in "".join(unreadable(load_settings(written(tmp_path, given), {})))


def test_good_files_are_taken(tmp_path: Path) -> None:
    made = self_signed(tmp_path / "tls", ("localhost",), NOW)
    token = tmp_path / "token"
    token.write_text(f"{SECRET}\n", encoding="utf-8")
    given = f"{{bearer_token_file: {token}, ca_file: {made.cert}, cert_file: {made.cert}, key_file: {made.key}}}"
    assert list(unreadable(load_settings(written(tmp_path, given), {}))) == []


def test_files_that_cannot_be_written_are_told_and_none_is_made(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("", encoding="utf-8")
    file = tmp_path / "tidegate.yaml"

    def said(memory: str) -> list[str]:
        file.write_text(f"{POOL}loop: {{memory_file: {memory}, journal_file: null}}", encoding="utf-8")
        return list(unwritable(load_settings(file, {})))

    assert said(str(tmp_path)) == [f"loop.memory_file: {tmp_path} is a folder; name a file in it"]
    assert "plain is a file, not a folder" in said(str(tmp_path / "plain" / "memory.json"))[0]
    assert "no ordinary file" in said("/dev/null")[0]
    assert said(str(tmp_path / "new" / "memory.json")) == []
    assert said("null") == []
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "tidegate.yaml"}


def test_a_read_only_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoscaler.credentials.os.access", lambda path, _mode: Path(path) != tmp_path)
    file = tmp_path / "tidegate.yaml"
    file.write_text(f"{POOL}loop: {{memory_file: {tmp_path}/memory.json}}", encoding="utf-8")
    assert "cannot be written by this user" in "".join(unwritable(load_settings(file, {})))
