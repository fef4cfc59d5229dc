"""Label selectors: the grammar of apimachinery, its refusals with a position, and the laws of matching."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapter.selectors import EVERYTHING, Operator, Requirement, Selector, SelectorError, parse

NAMES = st.from_regex(r"\A[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?\Z")
PREFIXES = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?(\.[a-z0-9]{1,5}){0,2}\Z")
KEYS = st.one_of(NAMES, st.builds("{}/{}".format, PREFIXES, NAMES))
VALUES = st.one_of(st.just(""), NAMES)
SETS = st.sets(VALUES, min_size=1, max_size=4).map(lambda values: tuple(sorted(values)))
REQUIREMENTS = st.one_of(
    st.builds(
        lambda key, operator, value: Requirement(key, operator, (value,)),
        KEYS,
        st.sampled_from([Operator.EQUALS, Operator.DOUBLE_EQUALS, Operator.NOT_EQUALS]),
        VALUES,
    ),
    st.builds(Requirement, KEYS, st.sampled_from([Operator.IN, Operator.NOT_IN]), SETS),
    st.builds(Requirement, KEYS, st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST])),
    st.builds(
        lambda key, operator, bound: Requirement(key, operator, (str(bound),)),
        KEYS,
        st.sampled_from([Operator.GREATER_THAN, Operator.LESS_THAN]),
        st.integers(0, 2**63 - 1),
    ),
)
SELECTORS = st.builds(lambda found: Selector(tuple(found)), st.lists(REQUIREMENTS, max_size=4))
LABELS = st.dictionaries(st.sampled_from(["a", "b", "x.y/c"]), st.sampled_from(["", "x", "y", "7"]))

CHAT = {"tidegate.dev/workload": "chat", "tidegate.dev/role": "decode", "tier": "7"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        (" \t\r\n", True),
        ("tidegate.dev/workload=chat", True),
        ("tidegate.dev/workload==chat", True),
        ("tidegate.dev/workload = chat , tidegate.dev/role == decode", True),
        ("tidegate.dev/workload=chat,tidegate.dev/role=prefill", False),
        ("tidegate.dev/workload=Chat", False),  # values are case-sensitive
        ("tidegate.dev/role!=prefill", True),
        ("tidegate.dev/role!=decode", False),
        ("absent!=x", True),
        ("absent=", False),  # the empty value is not the absent label
        ("tidegate.dev/role in (prefill,decode)", True),
        ("tidegate.dev/role in(prefill , decode )", True),
        ("tidegate.dev/role in ()", False),
        ("tidegate.dev/role notin (prefill)", True),
        ("tidegate.dev/role notin (prefill,decode)", False),
        ("absent notin (x)", True),
        ("tidegate.dev/role", True),
        ("absent", False),
        ("!absent", True),
        ("! absent", True),
        ("!tidegate.dev/role", False),
        ("tier>6", True),
        ("tier>7", False),
        ("tier<8", True),
        ("tidegate.dev/role>0", False),  # not a number: never greater
        ("absent<5", False),
    ],
)
def test_a_selector_means_what_kubernetes_says(text: str, matches: bool) -> None:
    assert parse(text).matches(CHAT) is matches


def test_in_and_notin_are_ordinary_words_elsewhere() -> None:
    assert parse("in=notin").matches({"in": "notin"})
    assert parse("in in (in,notin)").matches({"in": "notin"})
    assert parse("!notin").matches({})


def test_empty_values_in_a_set_are_kept() -> None:
    assert parse("a in (,x)").requirements[0].values == ("", "x")
    assert parse("a in (x,,y)").requirements[0].values == ("", "x", "y")
    assert parse("a in ()").matches({"a": ""})


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("=b", 0, "expected a label key"),
        ("a=b,", 4, "found the end"),
        ("a=b,,c=d", 4, "expected a label key"),
        ("a b", 2, "expected one of ="),
        ("a=b c", 4, "expected ','"),
        ("a===b", 3, "expected a label value"),
        ("a=!b", 2, "expected a label value"),
        ("!a=b", 2, "expected ','"),
        ("a in", 4, "expected '('"),
        ("a in x", 5, "expected '('"),
        ("a in (x", 7, "expected ',' or ')'"),
        ("a in (x y)", 8, "expected ',' or ')'"),
        ("a in (x))", 8, "expected ','"),
        ("a=)", 2, "expected ','"),
        ("a>", 2, "64-bit integer"),
        ("a>x", 2, "64-bit integer"),
        ("a<9223372036854775808", 2, "64-bit integer"),
        ("-a=b", 0, "label key"),
        ("/a=b", 0, "label key"),
        ("a/=b", 0, "label key"),
        ("a/b/c=d", 0, "DNS subdomain"),
        ("Upper.dev/a=b", 0, "DNS subdomain"),
        ("a=meta-llama/Llama", 2, "label value"),
        ("a=-b", 2, "label value"),
        ("a=b.", 2, "label value"),
        ("a=b\n.", 4, "expected ','"),
        ("a=é", 2, "label value"),
        ("a=\u00a0", 2, "label value"),
        ("a=\x00", 2, "label value"),
        ("а=b", 0, "label key"),  # noqa: RUF001 - a Cyrillic letter that only looks like one of ours
        ("a=" + "b" * 64, 2, "at most 63"),
        ("a" * 64, 0, "1 to 63"),
        ("p" * 254 + "/a", 0, "at most 253"),
        ("a=٣", 2, "label value"),
    ],
)
def test_what_is_no_selector_is_refused_with_its_place(text: str, position: int, problem: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse(text)
    assert caught.value.position == position
    assert problem in caught.value.problem
    assert caught.value.text == text


def test_the_longest_names_that_kubernetes_takes_are_taken() -> None:
    prefix = ".".join(["p" * 50] * 4 + ["q" * 49])  # 4 x 51 + 49 = 253
    assert len(prefix) == 253
    assert parse(f"{prefix}/{'n' * 63}={'v' * 63}").matches({f"{prefix}/{'n' * 63}": "v" * 63})


@given(SELECTORS)
def test_what_is_written_reads_back(selector: Selector) -> None:
    assert parse(str(selector)) == selector


@given(SELECTORS, LABELS)
def test_a_selector_is_the_and_of_its_requirements(selector: Selector, labels: dict[str, str]) -> None:
    assert selector.matches(labels) == all(r.matches(labels) for r in selector.requirements)
    assert EVERYTHING.matches(labels)


@given(st.sampled_from(["a", "b", "x.y/c", "zz"]), st.sets(st.sampled_from(["", "x", "y", "7"]), min_size=1), LABELS)
def test_negations_are_complements(key: str, values: set[str], labels: dict[str, str]) -> None:
    inside, one = ",".join(sorted(values)), min(values)
    assert parse(f"{key} in ({inside})").matches(labels) != parse(f"{key} notin ({inside})").matches(labels)
    assert parse(f"{key}={one}").matches(labels) != parse(f"{key}!={one}").matches(labels)
    assert parse(key).matches(labels) != parse(f"!{key}").matches(labels)
    assert parse(f"{key}={one}").matches(labels) == parse(f"{key} in ({one})").matches(labels)


@given(st.text(alphabet=st.sampled_from(list("ab/=!<>(), in\tnot-.7é\x00")), max_size=30))
def test_any_text_is_a_selector_or_a_selector_error(text: str) -> None:
    try:
        selector = parse(text)
    except SelectorError as error:
        assert 0 <= error.position <= len(text)  # noqa: PT017 - both outcomes are right, neither may be anything else
    else:
        assert parse(str(selector)) == selector
