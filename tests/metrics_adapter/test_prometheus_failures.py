"""What a server that refuses, stalls or talks nonsense does to a look: real sockets, errors in words."""

from __future__ import annotations

import base64
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from metrics_adapter.prometheus import PrometheusAccess, PrometheusSource
from metrics_adapter.signals import Group, Signal, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = 1_800_000_000.0
GROUPS = [Group("g", {"pool": "p"}), Group("other", {"pool": "q"})]
SECRET = "tok3n-that-must-not-leak"


@dataclass(slots=True)
class Asked:
    """One request as the server saw it."""

    method: str
    target: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]


@dataclass(slots=True)
class Fake:
    """A server whose answers a test chooses: `answer` returns status, headers and body."""

    answer: Callable[[Asked], tuple[int, dict[str, str], bytes]]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)


def as_json(data: Any, **more: Any) -> tuple[int, dict[str, str], bytes]:
    body = json.dumps({"status": "success", "data": data} | more).encode()
    return 200, {"Content-Type": "application/json"}, body


def vector(*rows: tuple[dict[str, str], float], **more: Any) -> tuple[int, dict[str, str], bytes]:
    result = [{"metric": labels, "value": [NOW, str(value)]} for labels, value in rows]
    return as_json({"resultType": "vector", "result": result}, **more)


def healthy(asked: Asked) -> tuple[int, dict[str, str], bytes]:
    """A Prometheus with one vLLM engine in pool p that runs 3 requests."""
    query = asked.params.get("query", "")
    if asked.path.endswith("/values"):
        return as_json(["vllm:num_requests_running", "vllm:generation_tokens_total"])
    if query.startswith("count by (instance)") or "count(" in query:
        return vector()
    if query.startswith("label_replace"):
        return vector(({"pool": "p", "tidegate_family": "vllm"}, 1))
    if query.startswith("min by"):
        return vector(({"pool": "p"}, NOW - 5))
    if query.startswith("sum by (pool) (vllm:num_requests_running"):
        return vector(({"pool": "p"}, 3))
    return vector()


@contextmanager
def serving(answer: Callable[[Asked], tuple[int, dict[str, str], bytes]]) -> Iterator[Fake]:
    fake = Fake(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            parts = urlsplit(self.path)
            form = parts.query + self.rfile.read(length).decode()
            asked = Asked(
                self.command, self.path, parts.path, {k: v[0] for k, v in parse_qs(form).items()}, dict(self.headers)
            )
            fake.asked.append(asked)
            status, headers, body = fake.answer(asked)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name http.server calls

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def source_of(url: str, **access: Any) -> Iterator[PrometheusSource]:
    source = PrometheusSource(PrometheusAccess(url, **({"timeout_s": 10.0, "backoff_s": 0.01} | access)))
    try:
        yield source
    finally:
        source.close()


def failure(answer: Callable[[Asked], tuple[int, dict[str, str], bytes]], **access: Any) -> tuple[str, list[Asked]]:
    with serving(answer) as fake, source_of(fake.url, **access) as source:
        with pytest.raises(SourceError) as caught:
            source.read(NOW, GROUPS)
        assert f"Prometheus at {fake.url}" in str(caught.value)
        return str(caught.value), fake.asked


def test_a_healthy_server_reads() -> None:
    with serving(healthy) as fake, source_of(fake.url) as source:
        readings = source.read(NOW, GROUPS)
    assert readings.by_key["g"].signals == {Signal.RUNNING: 3.0}
    assert readings.by_key["g"].sampled_at == NOW - 5
    assert readings.queries == len(fake.asked)
    assert {asked.params["time"] for asked in fake.asked if "query" in asked.params} == {f"{NOW:.3f}"}


def test_unreachable() -> None:
    with serving(healthy) as fake:
        url = fake.url
    with source_of(url, retries=1) as source, pytest.raises(SourceError, match=r"refused.*\(tried 2 times\)"):
        source.read(NOW, GROUPS)


def test_unknown_host_is_named() -> None:
    url = "http://no-such-host.invalid:9090"
    with source_of(url, retries=0) as source, pytest.raises(SourceError, match="no-such-host"):
        source.read(NOW, GROUPS)


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_server_errors_are_retried_and_then_told(status: int) -> None:
    text, asked = failure(lambda _: (status, {}, b"storage is on fire"), retries=2)
    assert f"answered {status}" in text
    assert "storage is on fire" in text
    assert len(asked) == 3


@pytest.mark.parametrize(("status", "hint"), [(401, "credentials"), (403, "may not query"), (404, "path prefix")])
def test_refusals_are_not_retried_and_hint_at_the_cure(status: int, hint: str) -> None:
    text, asked = failure(lambda _: (status, {}, b""))
    assert hint in text
    assert len(asked) == 1


def test_the_servers_own_explanation_is_shown() -> None:
    said = {"status": "error", "errorType": "execution", "error": "query processing would load too many samples"}

    def limit(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        return (422, {}, json.dumps(said).encode()) if "query" in asked.params else healthy(asked)

    text, asked = failure(limit)
    assert "422" in text
    assert "too many samples" in text
    assert all(asked.count(a) == 1 for a in asked)


def test_recovers_within_one_read_from_a_passing_error() -> None:
    calls: list[int] = []

    def flaky(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        calls.append(1)
        return (503, {}, b"") if len(calls) == 1 else healthy(asked)

    with serving(flaky) as fake, source_of(fake.url) as source:
        assert source.read(NOW, GROUPS).by_key["g"].reporting == 1


@pytest.mark.parametrize(
    "body", [b"<html>please log in</html>", b"{", b"[]", b"null", b'{"status":"success"}', b"\xff\x00"]
)
def test_nonsense_with_status_200(body: bytes) -> None:
    text, asked = failure(lambda _: (200, {"Content-Type": "text/html"}, body))
    assert "not a Prometheus reply" in text
    assert len(asked) == 1


def test_nonsense_in_the_rows_of_the_roll_call() -> None:
    def odd(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        return (
            as_json({"resultType": "vector", "result": [{"metric": 3}]}) if "query" in asked.params else healthy(asked)
        )

    text, _ = failure(odd)
    assert "instant vector" in text


def test_an_answer_cut_short_is_an_error() -> None:
    text, _ = failure(lambda _: (200, {"Content-Length": "100", "Connection": "close"}, b'{"status":'), retries=0)
    assert "cannot be reached" in text or "IncompleteRead" in text


def test_a_silent_server_ends_at_the_deadline() -> None:
    release = threading.Event()

    def silent(_: Asked) -> tuple[int, dict[str, str], bytes]:
        release.wait(30)
        return 200, {}, b""

    with serving(silent) as fake, source_of(fake.url, timeout_s=0.3) as source:
        with pytest.raises(SourceError, match=r"no answer within 0\.3 s"):
            source.read(NOW, GROUPS)
        release.set()


def test_a_trickling_body_ends_at_the_deadline() -> None:
    """Each byte comes in time for a socket timeout, the whole never does."""
    with serving(healthy) as fake:
        stop = threading.Event()

        class Trickle(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                while not stop.wait(0.05):
                    try:
                        self.wfile.write(b" ")
                    except OSError:
                        return

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Trickle)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            with source_of(f"http://127.0.0.1:{server.server_address[1]}", timeout_s=0.5, retries=0) as source:
                started = time.monotonic()
                with pytest.raises(SourceError, match=r"no answer within 0\.5 s"):
                    source.read(NOW, GROUPS)
                assert time.monotonic() - started < 20
        finally:
            stop.set()
            server.shutdown()
            thread.join()
            server.server_close()
        assert fake.asked == []


def test_a_failed_signal_is_a_note_and_the_rest_is_read() -> None:
    def partly(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        if "rate(" in asked.params.get("query", ""):
            return 422, {}, b'{"status":"error","errorType":"execution","error":"range too long"}'
        return healthy(asked)

    with serving(partly) as fake, source_of(fake.url) as source:
        readings = source.read(NOW, GROUPS)
    assert readings.by_key["g"].signals == {Signal.RUNNING: 3.0}
    assert any(note.startswith("generation_rate:") and "range too long" in note for note in readings.notes)


def test_a_failed_presence_query_fails_the_look() -> None:
    def blind(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        return (422, {}, b"no") if asked.params.get("query", "").startswith("label_replace") else healthy(asked)

    assert "422" in failure(blind)[0]


def test_warnings_of_a_partial_answer_become_notes() -> None:
    def partial(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        if asked.params.get("query", "").startswith("sum by"):
            return vector(({"pool": "p"}, 3), warnings=["store-2: no response"])
        return healthy(asked)

    with serving(partial) as fake, source_of(fake.url) as source:
        readings = source.read(NOW, GROUPS)
    assert "Prometheus warns: store-2: no response" in readings.notes
    assert readings.by_key["g"].reporting == 1


def test_discovery_runs_once_per_interval_and_again_at_once_when_nothing_matched() -> None:
    def discoveries(fake: Fake) -> int:
        return sum(asked.path.endswith("/values") for asked in fake.asked)

    with serving(healthy) as fake, source_of(fake.url) as source:
        source.read(NOW, GROUPS)
        source.read(NOW + 30, GROUPS)
        assert discoveries(fake) == 1
        source.read(NOW + 61, GROUPS)
        assert discoveries(fake) == 2
        source.read(NOW + 62, [Group("g", {"pool": "elsewhere"}), Group("other", {"pool": "q"})])
        source.read(NOW + 63, GROUPS)
        assert discoveries(fake) == 3


def test_a_server_without_any_known_name_says_so() -> None:
    def foreign(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        return as_json([]) if asked.path.endswith("/values") else vector()

    with serving(foreign) as fake, source_of(fake.url) as source:
        readings = source.read(NOW, GROUPS)
    assert readings.by_key["g"].reporting == 0
    assert any("no metric of a known engine" in note for note in readings.notes)


def test_bearer_token_file_is_read_anew_when_it_rotates(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with serving(healthy) as fake, source_of(fake.url, bearer_token_file=str(token)) as source:
        source.read(NOW, GROUPS)
        first = {asked.headers["Authorization"] for asked in fake.asked}
        fake.asked.clear()
        token.write_text("second\n")
        source.read(NOW, GROUPS)
        second = {asked.headers["Authorization"] for asked in fake.asked}
        token.unlink()
        with pytest.raises(SourceError, match=r"bearer_token_file .*token cannot be read"):
            source.read(NOW, GROUPS)
    assert (first, second) == ({"Bearer first"}, {"Bearer second"})


def test_basic_auth_tenant_and_path_prefix_are_sent(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("pä:ss\n", encoding="utf-8")
    access: dict[str, Any] = {"username": "me", "password_file": str(password), "headers": {"X-Scope-OrgID": "team-a"}}
    with serving(healthy) as fake, source_of(fake.url + "/prom/", **access) as source:
        source.read(NOW, GROUPS)
    expected = "Basic " + base64.b64encode("me:pä:ss".encode()).decode()
    assert {asked.headers["Authorization"] for asked in fake.asked} == {expected}
    assert {asked.headers["X-Scope-OrgID"] for asked in fake.asked} == {"team-a"}
    assert all(asked.path.startswith("/prom/api/v1/") for asked in fake.asked)


def test_user_and_password_in_the_address_are_used_and_never_shown() -> None:
    with serving(healthy) as fake:
        host = fake.url.removeprefix("http://")
        with source_of(f"http://me:{SECRET}%21@{host}") as source:
            source.read(NOW, GROUPS)
            fake.answer = lambda _: (403, {}, b"no")
            with pytest.raises(SourceError) as caught:
                source.read(NOW + 1000, GROUPS)
    expected = "Basic " + base64.b64encode(f"me:{SECRET}!".encode()).decode()
    assert fake.asked[0].headers["Authorization"] == expected
    assert SECRET not in str(caught.value)
    assert f"http://{host}" in str(caught.value)


@pytest.mark.parametrize("how", ["bearer_token", "password", "bearer_token_file", "header"])
def test_a_server_that_echoes_the_request_does_not_leak_credentials(how: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    ways: dict[str, dict[str, Any]] = {
        "bearer_token": {"bearer_token": SECRET},
        "password": {"username": "me", "password": SECRET},
        "bearer_token_file": {"bearer_token_file": str(path)},
        "header": {"headers": {"X-Api-Key": SECRET}},
    }
    access = ways[how]
    text, asked = failure(lambda asked: (403, {}, f"{asked.headers}".encode()), **access)
    sent = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert SECRET in str(asked[0].headers) or sent in str(asked[0].headers)
    assert SECRET not in text
    assert sent not in text
    assert SECRET not in repr(PrometheusAccess("http://x", **access))


def test_a_token_with_a_line_break_is_refused_without_showing_it() -> None:
    with (
        serving(healthy) as fake,
        source_of(fake.url, bearer_token=f"{SECRET}\nX-Evil: 1") as source,
        pytest.raises(SourceError) as caught,
    ):
        source.read(NOW, GROUPS)
    assert SECRET not in str(caught.value)
    assert "character that HTTP does not allow" in str(caught.value)
    assert fake.asked == []


def test_a_long_query_goes_as_a_post_body() -> None:
    many = {f"label_with_a_long_name_{i}": "x" for i in range(120)}
    groups = [Group("g", {"pool": "p"} | many), Group("other", {"pool": "q"})]
    with serving(healthy) as fake, source_of(fake.url) as source:
        source.read(NOW, groups)
    sent = [(len(asked.params["query"]), asked.method) for asked in fake.asked if "query" in asked.params]
    assert {method for length, method in sent if length > 3500} == {"POST"}
    assert {method for length, method in sent if length <= 3500} == {"GET"}
    assert all(len(asked.target) < 6000 for asked in fake.asked)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"url": "prometheus:9090"}, "url: .* not an http"),
        ({"url": "http://"}, "url"),
        ({"timeout_s": 0}, "timeout_s: 0"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"retries": -1}, "retries"),
        ({"bearer_token": "a", "username": "b"}, "exclude one another"),
        ({"bearer_token": "a", "bearer_token_file": "b"}, "exclude one another"),
        ({"client_key": "k"}, "client_cert"),
    ],
)
def test_access_that_cannot_work_is_refused_by_name(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PrometheusAccess(**({"url": "http://x"} | wrong))


def test_closing_twice_is_safe_and_reading_afterwards_fails() -> None:
    with serving(healthy) as fake, source_of(fake.url) as source:
        source.read(NOW, GROUPS)
        source.close()
        source.close()
        with pytest.raises(SourceError, match="closed"):
            source.read(NOW, GROUPS)


@pytest.mark.parametrize(
    "data",
    [
        {"resultType": "vector", "result": []},  # as a proxy answers that knows one kind of query
        {"resultType": "vector", "result": [{"metric": {}, "value": [NOW, "1"]}, 3]},
        {"resultType": "matrix", "result": [{"metric": {}, "values": [["yesterday", "1"]]}]},
        [3],
        "ready",
    ],
)
def test_answers_in_another_shape_are_a_failed_read_and_no_crash(data: Any) -> None:
    with serving(lambda _: as_json(data)) as fake, source_of(fake.url) as source:
        asked: list[tuple[str, Callable[[], object]]] = [
            ("a list of label values", lambda: source.names(NOW)),
            ("a scalar", source.server_time),
        ]
        if data != {"resultType": "vector", "result": []}:  # no series is an answer to these
            asked.append(("a list of series", lambda: source.series("up", NOW)))
            asked.append(("a range of samples", lambda: source.range("up", NOW - 60, NOW, 15)))
        for what, ask in asked:
            with pytest.raises(SourceError) as caught:
                ask()
            assert f"Prometheus at {fake.url}" in str(caught.value), what
