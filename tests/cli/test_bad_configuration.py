"""Every slip in a configuration ends in a sentence with its place, its value and what would be right."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler import build
from autoscaler.configuration import load, load_settings
from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from pathlib import Path

POOL = "pools: [{name: a, roles: {colocated: {max_replicas: 4}}}]\n"
ROLES = "roles: {colocated: {max_replicas: 4}}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tidegate.yaml"


def problems(file: Path, text: str | bytes, environment: dict[str, str] | None = None) -> list[str]:
    """What is said of this text; the file's folder is left out."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadSettings) as caught:
        _all_the_way(file, environment or {})
    return [problem.replace(f"{file.parent}/", "") for problem in caught.value.problems]


def _all_the_way(file: Path, environment: dict[str, str]) -> None:
    loaded = load(file, environment)
    with loaded.placing():
        build.parts(loaded.settings)


def pool(line: str, roles: str = ROLES) -> str:
    """A pool with one more line, which is line 3 of the file."""
    return f"pools:\n- name: a\n  {line}\n  {roles}\n"


WRONG: dict[str, tuple[str | bytes, str]] = {
    "number": (POOL + "loop: {interval_s: fast}", "2: loop.interval_s: 'fast' is not right: must be a number"),
    "whole number": (
        pool("enabled: true", "roles: {colocated: {max_replicas: 4.5}}"),
        "4: pools[0].roles.colocated.max_replicas: 4.5 is not right: must be a whole number",
    ),
    "list for mapping": (pool("match: [a]"), "3: pools[0].match: a list of 1 is not right: must be a mapping"),
    "mapping for list": ("pools:\n  a: {}", "1: pools: a mapping (a) is not right: must be a list"),
    "section left empty": (POOL + "loop:", "2: loop: is empty: must be a mapping with keys such as interval_s"),
    "pools left empty": ("pools:", "1: pools: is empty: must be a list"),
    "no pools": ("pools: []", "1: pools: an empty list is not right: at least one is needed"),
    "negative": (POOL + "loop: {interval_s: -1}", "2: loop.interval_s: -1 is not right: must be above 0"),
    "ticks no window reaches": (
        POOL + "loop: {interval_s: 61}",
        "2: loop.interval_s: 61 is not below source.window_s 60: between two ticks would lie load that nobody saw",
    ),
    "ticks as far apart as the window": (
        POOL + "loop: {interval_s: 30}\nsource: {window_s: 30}",
        "loop.interval_s: 30 is not below source.window_s 30",
    ),
    "nan": (POOL + "loop: {interval_s: .nan}", "2: loop.interval_s: nan is not right: must be a finite number"),
    "infinity": (POOL + "plan: {shortage_price: .inf}", "2: plan.shortage_price: inf is not right: must be a finite"),
    "huge": (pool("priority: 99999999999"), "3: pools[0].priority: 99999999999 is not right: must be at most 1000"),
    "5,000 digits": (pool("priority: " + "9" * 5000), "3: not valid YAML: cannot be read as what it looks like"),
    "no date": (pool("model_name: 2026-02-31"), "3: not valid YAML: cannot be read as what it looks like"),
    "switch for number": (
        pool("enabled: true", "roles: {colocated: {max_replicas: yes}}"),
        "4: pools[0].roles.colocated.max_replicas: True is not right: must be a number (YAML reads yes",
    ),
    "on for text": ("pools:\n- name: on\n  " + ROLES, "2: pools[0].name: True is not right: must be text; put it in"),
    "number for text": (pool("match: {zone: 3}"), "3: pools[0].match.zone: 3 is not right: must be text; put it in"),
    "time for text": (pool("model_name: 1:30:00"), "3: pools[0].model_name: 5400 is not right: must be text; put"),
    "on for a key": (pool("match: {on: x}"), "3: pools[0].match: the key True must be text; put it in quotes"),
    "unknown section": (POOL + "pool: 3", "2: pool: unknown key (value 3); did you mean pools?"),
    "unknown in a section": (POOL + "source:\n  promethus: {}", "3: source.promethus: unknown key"),
    "unknown below": (
        POOL + "source:\n  prometheus:\n    timeout: 3",
        "4: source.prometheus.timeout: unknown key (value 3); did you mean timeout_s?",
    ),
    "unknown in a pool": (pool("modelname: x"), "3: pools[0].modelname: unknown key (value 'x'); did you mean model_"),
    "unknown in a role": (
        pool("enabled: true", "roles: {colocated: {max_replicas: 4, maximum: 5}}"),
        "4: pools[0].roles.colocated.maximum: unknown key (value 5); there are match, max_replicas, min_replicas",
    ),
    "unknown in a target": (
        pool("enabled: true", "roles: {colocated: {max_replicas: 4, target: {kin: Deployment, name: x}}}"),
        "4: pools[0].roles.colocated.target.kin: unknown key (value 'Deployment'); did you mean kind?",
    ),
    "unknown in a supply": (
        POOL + "supply:\n- accelerator: l4\n  gpu: 3",
        "4: supply[0].gpu: unknown key (value 3); did",
    ),
    "unknown role": (
        pool("enabled: true", "roles: {decoder: {max_replicas: 4}}"),
        "4: pools[0].roles.decoder: 'decoder' is not right: must be 'prefill', 'decode' or 'colocated'",
    ),
    "two kinds of roles": (
        pool("enabled: true", "roles: {colocated: {max_replicas: 4}, decode: {max_replicas: 4}}"),
        "4: pools[0].roles: a pool is either colocated or has prefill and decode, not both",
    ),
    "key twice": ("loop: {}\n" + POOL + "loop: {}", "3: not valid YAML: key 'loop' is given twice; keep one"),
    "key twice below": (
        POOL + "loop:\n  interval_s: 1\n  interval_s: 2",
        "4: not valid YAML: key 'interval_s' is given",
    ),
    "tab": ("pools:\n\t- name: a", "2: not valid YAML: found character '\\t' that cannot start any token; indent with"),
    "list on top": ("- a\n- b", "1: holds a list; it must be a mapping that begins with keys such as `pools:`"),
    "word on top": ("hello", "1: holds a single value; it must be a mapping"),
    "two documents": (POOL + "---\n" + POOL, "2: not valid YAML: expected a single document in the stream"),
    "unclosed": ("pools: [{name: a", "1: not valid YAML: expected ',' or '}'"),
    "a list as key": ("? [a]\n: 3", "1: not valid YAML: a key must be a plain word"),
    "code": ("pools: !!python/object/apply:os.system ['id']", "1: not valid YAML: could not determine a constructor"),
    "alias of itself": ("pools: &a [*a]", "1: not valid YAML: this alias contains itself"),
    "billion laughs": (  # a holds 11 values, b 1 + 10 * 11 = 111, ..., e 111,111, f (line 6) 1,111,111
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{name}: &{name} [{','.join([f'*{below}'] * 10)}]\n"
            for below, name in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "6: not valid YAML: unfolds to more than 200000 values",
    ),
    "least above most": (
        pool("enabled: true", "roles: {colocated: {min_replicas: 5, max_replicas: 4}}"),
        "4: pools[0].roles.colocated.min_replicas: 5 is above max_replicas 4",
    ),
    "capital in a name": (
        "pools:\n- name: Llama\n  " + ROLES,
        "2: pools[0].name: 'Llama' is not right: use lower-case",
    ),
    "line end in a name": (
        'pools:\n- name: "a\\n"\n  ' + ROLES,
        "2: pools[0].name: 'a\\n' is not right: use lower-case",
    ),
    "64 characters": ("pools:\n- name: " + "a" * 64 + "\n  " + ROLES, "is not right: has 64 characters; at most 63"),
    "dot in a namespace": (pool("namespace: a.b"), "3: pools[0].namespace: 'a.b' is not right: use lower-case"),
    "object name": (
        pool("enabled: true", "roles: {colocated: {max_replicas: 4, target: {name: My_App}}}"),
        "4: pools[0].roles.colocated.target.name: 'My_App' is not right: use lower-case letters",
    ),
    "object kind": (
        pool("enabled: true", "roles: {colocated: {max_replicas: 4, target: {kind: deployment, name: x}}}"),
        "4: pools[0].roles.colocated.target.kind: 'deployment' is not right: must be 'Deployment', 'StatefulSet',",
    ),
    "Kubernetes label": (
        pool("match: {app.kubernetes.io/name: x}"),
        (
            "3: pools[0].match['app.kubernetes.io/name']: 'app.kubernetes.io/name' is not right: Prometheus label "
            "names hold letters, digits and '_' only and begin with no digit, such as 'app_kubernetes_io_name'"
        ),
    ),
    "reserved label": (
        pool("match: {__name__: x}"),
        "3: pools[0].match.__name__: '__name__' is not right: labels that",
    ),
    "label setting": (POOL + "source: {model_label: model-name}", "2: source.model_label: 'model-name' is not right"),
    "label twice": (POOL + "source: {role_label: namespace}", "2: source: namespace_label, model_label and role_label"),
    "no scheme": (
        POOL + "source: {prometheus: {url: 'localhost:9090'}}",
        "2: source.prometheus.url: 'localhost:9090' is not right: must start with http:// or https://",
    ),
    "no host": (POOL + "source: {prometheus: {url: 'http://'}}", "2: source.prometheus.url: 'http://' is not right"),
    "no such port": (POOL + "source: {prometheus: {url: 'http://a:99999'}}", "Port out of range"),
    "header": (POOL + "source: {prometheus: {headers: {a b: x}}}", "'a b' is not right: not a name of an HTTP header"),
    "nothing to scrape": (POOL + "source: {kind: scrape}", "2: source.scrape: source.kind is scrape, but neither"),
    "two lists": (
        POOL + "source: {scrape: {file_sd: x, targets: [{url: 'http://a'}]}}",
        "2: source.scrape.file_sd: targets are given as well",
    ),
    "ladder": (POOL + "lead: {start_s: 500}", "2: lead: start_s 500, preempt_s 160 and provision_s 300 must not fall"),
    "ages": (POOL + "serving: {soft_age_s: 130}", "2: serving.soft_age_s: 130 is above hard_age_s 120"),
    "older than a tick": (POOL + "loop: {interval_s: 300}", "serving.hard_age_s: 120 is not above loop.interval_s 300"),
    "one port twice": (
        POOL + "serving: {port: 8080}",
        "2: serving.status_port: 8080 is the port of the external-metrics",
    ),
    "name in certificate": (POOL + "serving: {tls: {names: ['a b']}}", "2: serving.tls.names[0]: 'a b' is not right"),
    "half a pair": (POOL + "serving: {tls: {cert_file: x}}", "2: serving.tls: cert_file and key_file belong together"),
    "one file twice": (
        POOL + "loop: {memory_file: x, journal_file: x}",
        "2: loop.journal_file: 'x' is the memory_file",
    ),
    "no file": (POOL + "loop: {memory_file: ''}", "2: loop.memory_file: '' is not right: must name a file"),
    "pool twice": (
        f"pools:\n- {{name: a, {ROLES}, match: {{x: y}}}}\n- {{name: a, {ROLES}, match: {{x: z}}}}",
        "3: pools[1].name: default/a is the name of pools[0] already",
    ),
    "same series": (
        f"pools:\n- {{name: a, {ROLES}}}\n- {{name: b, {ROLES}}}",
        "3: pools[1].roles.colocated: selects the same series as pools[0].roles.colocated (namespace=default)",
    ),
    "series within another's": (
        f"pools:\n- {{name: a, {ROLES}, model_name: m}}\n- {{name: b, {ROLES}, model_name: m, match: {{v: x}}}}",
        (
            "2: pools[0].roles.colocated: selects all series of pools[1].roles.colocated (model_name=m, "
            "namespace=default, v=x) too; they would be counted twice"
        ),
    ),
    "one target twice": (
        (
            "pools:\n- name: a\n  roles:\n    prefill: {max_replicas: 4, target: {name: x}}\n"
            "    decode: {max_replicas: 4, target: {name: x}}"
        ),
        "5: pools[0].roles.decode.target: Deployment x is that of pools[0].roles.prefill.target already",
    ),
    "nobody to count": (
        POOL + "source: {replica_counts: kube-state-metrics}",
        "1: pools[0].roles.colocated.target: source.replica_counts is kube-state-metrics, which needs to know whose",
    ),
    "profile": (
        pool("profile: llama-3.1-8b/h999/tp1"),
        "4: pools[0].roles.colocated: no profile llama-3.1-8b/h999/tp1; nearest: llama-3.1-8b/",
    ),
    "profile's form": (
        pool("profile: llama-3.1-8b"),
        "4: pools[0].roles.colocated: profile 'llama-3.1-8b' is not of the form model/accelerator/tpN; nearest: llama",
    ),
    "accelerator": (
        pool("accelerator: h101") + "supply: [{accelerator: h100-80gb}]",
        "4: pools[0].roles.colocated: runs on h101, which supply does not list (h100-80gb)",
    ),
    "stock twice": (
        POOL + "supply:\n- {accelerator: l4}\n- {accelerator: l4}",
        "4: supply[1].accelerator: 'l4' is listed already; one entry per accelerator",
    ),
    "profiles' folder": (POOL + "profiles_dir: /no/such", "2: profiles_dir: /no/such is no folder"),
    "token file": (
        POOL + "source:\n  prometheus: {bearer_token_file: /no/such}",
        "3: source.prometheus.bearer_token_file: /no/such does not exist",
    ),
    "binary": (b"pools: \x00\x01", "1: not a text file: holds the character '\\x00'"),
    "another encoding": ((POOL + "# gr\xfc\xdfe").encode("latin-1"), "2: not UTF-8 text"),
    "UTF-16": (POOL.encode("utf-16"), "1: not UTF-8 text"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_slip_is_told_with_its_place_its_value_and_what_would_be_right(case: str, file: Path) -> None:
    text, expected = WRONG[case]
    said = problems(file, text)
    assert all(problem.startswith("tidegate.yaml:") for problem in said), said
    assert any(expected in problem.removeprefix("tidegate.yaml:") for problem in said), said


def test_several_slips_are_told_at_once(file: Path) -> None:
    said = problems(file, POOL + "loop: {interval_s: -1, journal_mb: 0}\nguards: {most_down: 2}\nx: 1")
    assert [problem.split(": ")[1] for problem in said] == [
        "loop.interval_s",
        "loop.journal_mb",
        "guards.most_down",
        "x",
    ]


def test_two_thousand_slips_are_not_all_told(file: Path) -> None:
    said = problems(file, "pools:\n" + "- {}\n" * 2000)
    assert len(said) == 51
    assert said[-1] == "... and 3950 more problems"  # 2,000 pools lack name and roles; 50 are told


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "~\n"])
def test_a_file_that_says_nothing_lacks_its_pools(text: str, file: Path) -> None:
    assert problems(file, text) == ["tidegate.yaml: pools: missing, and it has no default (What to scale)"]


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="there is no such file"):
        load_settings(tmp_path / "none.yaml", {})
    with pytest.raises(BadSettings, match="Is a directory; expected a YAML file"):
        load_settings(tmp_path, {})


def test_what_editors_add_is_harmless(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + POOL.replace("\n", "\r\n").encode())
    assert load_settings(file, {}).pools[0].name == "a"


def test_a_disabled_pool_may_overlap_its_successor(file: Path) -> None:
    file.write_text(f"pools:\n- {{name: old, enabled: false, {ROLES}}}\n- {{name: new, {ROLES}}}", encoding="utf-8")
    assert [pool.enabled for pool in load_settings(file, {}).pools] == [False, True]


def test_two_thousand_roles_are_compared_in_seconds(file: Path) -> None:
    roles = "roles: {prefill: {max_replicas: 4}, decode: {max_replicas: 4}}"
    file.write_text(
        "pools:\n" + "".join(f"- {{name: p{i}, model_name: m{i}, {roles}}}\n" for i in range(1000)), "utf-8"
    )
    began = time.monotonic()
    assert len(load_settings(file, {}).pools) == 1000
    assert time.monotonic() - began < 60  # about 2 s; pair by pair it would be four million comparisons of maps


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
@settings(max_examples=150, deadline=None)
def test_garbage_is_never_more_than_bad_settings(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "garbage.yaml"
    file.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    with pytest.raises(BadSettings) as caught:
        load_settings(file, {})
    assert caught.value.problems


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PLACES = (
    "pools", "source", "loop", "supply", "source.prometheus", "source.prometheus.headers", "source.scrape.targets",
    "serving.tls.names", "guards.most_up", "log_level", "profiles_dir",
)  # fmt: skip


@given(st.sampled_from(PLACES), JSON)
@settings(max_examples=250, deadline=None)
def test_any_value_anywhere_is_taken_or_told_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, place: str, value: object
) -> None:
    values: dict[str, object] = {"pools": [{"name": "a", "roles": {"colocated": {"max_replicas": 4}}}]}
    inner = values
    *above, last = place.split(".")
    for part in above:
        below: dict[str, object] = {}
        inner[part] = below
        inner = below
    inner[last] = value
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert all(problem.startswith(f"{file}:") for problem in _problems_if_any(file))


def _problems_if_any(file: Path) -> tuple[str, ...]:
    try:
        load_settings(file, {})
    except BadSettings as error:
        return error.problems
    return ()
