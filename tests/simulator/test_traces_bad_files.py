"""Whatever is wrong with a trace is said with file, row, column, value and what would be right."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from autoscaler.errors import BadSettings, TidegateError
from autoscaler.simulator.requests import DemandSeries, Workload
from autoscaler.simulator.trace_files import LONGEST_LINE, BadTrace
from autoscaler.simulator.traces import Format, load

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = "2023-11-16 18:17:03.9799600,4808,10\n"
REQUESTS = "arrival_s,input_tokens,output_tokens\n"
DEMAND = "t_s,requests,input_tokens,output_tokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def write(folder: Path, text: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def workload(path: Path | str, kind: str) -> Workload:
    loaded = load(path, kind)
    assert isinstance(loaded, Workload)
    return loaded


@pytest.mark.parametrize(
    ("kind", "text", "row", "line", "column", "value", "said"),
    [
        ("azure", AZURE + GOOD + "2023-11-16 18:17:04,-3,8\n", 2, 3, "ContextTokens", "-3", "negative"),
        (
            "azure",
            AZURE + GOOD + "2023-11-16 18:17:04,3,1000000000\n",
            2,
            3,
            "GeneratedTokens",
            "1000000000",
            "10,000,000",
        ),
        ("azure", AZURE + GOOD + "\n2023-11-16 18:17:04,1e9,8\n", 2, 4, "ContextTokens", "1e9", "10,000,000"),
        ("azure", AZURE + GOOD + "2023-11-16 18:17:04,nan,8\n", 2, 3, "ContextTokens", "nan", "finite"),
        ("azure", AZURE + GOOD + "2023-11-16 18:17:04,,8\n", 2, 3, "ContextTokens", "", "empty"),
        ("azure", AZURE + GOOD + "2023-11-16 18:17:04,12.5,8\n", 2, 3, "ContextTokens", "12.5", "whole"),
        ("azure", AZURE + GOOD + "2023-11-16 18:17:04,1_000,8\n", 2, 3, "ContextTokens", "1_000", "not a number"),
        (
            "azure",
            AZURE + GOOD + "2023-11-16 18:17:02,3,8\n",
            2,
            3,
            "TIMESTAMP",
            "2023-11-16 18:17:02",
            "must not decrease",
        ),
        ("azure", AZURE + GOOD + "16/11/2023 18:17,3,8\n", 2, 3, "TIMESTAMP", "16/11/2023 18:17", "expected like 2023"),
        ("azure", AZURE + "2023-02-30 18:17:03,3,8\n", 1, 2, "TIMESTAMP", "2023-02-30 18:17:03", "day"),
        (
            "azure",
            AZURE + GOOD + "2023-11-16 18:17:04+02:00,3,8\n",
            2,
            3,
            "TIMESTAMP",
            "2023-11-16 18:17:04+02:00",
            "zone",
        ),
        ("requests", REQUESTS + "0,1,1\n5,1,1\n4,1,1\n", 3, 4, "arrival_s", "4", "comes after 5 in the row above"),
        ("requests", REQUESTS + "inf,1,1\n", 1, 2, "arrival_s", "inf", "finite"),
        ("requests", REQUESTS + "1e999,1,1\n", 1, 2, "arrival_s", "1e999", "too large"),
        ("requests", REQUESTS + "-1,1,1\n", 1, 2, "arrival_s", "-1", "negative"),
        ("requests", REQUESTS + f"0,{'9' * 5000},1\n", 1, 2, "input_tokens", "9" * 5000, "too large"),
        ("requests", REQUESTS[:-1] + ",cached_tokens\n0,5,1,6\n", 1, 2, "cached_tokens", "6", "more than the 5"),
        ("burstgpt", BURST + "5,ChatGPT,472,-18,490,API log\n", 1, 2, "Response tokens", "-18", "negative"),
        ("demand", DEMAND + "0,1,1,1\n60,1,1,1\n180,1,1,1\n240,1,1,1\n", 3, 4, "t_s", "180.0", "60 s apart"),
        ("demand", DEMAND + "0,1,1,1\n1e9,1,1,1\n", 2, 3, "t_s", "1000000000", "at most 400 days"),
        ("requests", REQUESTS + "0,1,1\n1e12,1,1\n", 2, 3, "arrival_s", "1000000000000", "at most 400 days"),
        (
            "mooncake",
            '{"timestamp": 1e15, "input_length": 5, "output_length": 1}\n',
            1,
            1,
            "timestamp",
            "1000000000000000.0",
            "in milliseconds?",
        ),
        ("demand", DEMAND + "0,0,5,0\n60,1,1,1\n", 1, 2, "input_tokens", "5", "without requests"),
        ("demand", DEMAND + "0,1,1e9,1\n60,1,1,1\n", 1, 2, "input_tokens", "1e+09", "per request"),
        ("demand", DEMAND + "0,-1,1,1\n60,1,1,1\n", 1, 2, "requests", "-1", "negative"),
        (
            "mooncake",
            '{"timestamp": 0, "input_length": -5, "output_length": 1}\n',
            1,
            1,
            "input_length",
            "-5",
            "negative",
        ),
        (
            "mooncake",
            '{"timestamp": 0, "input_length": NaN, "output_length": 1}\n',
            1,
            1,
            "input_length",
            "NaN",
            "whole",
        ),
        (
            "mooncake",
            '{"timestamp": "0", "input_length": 5, "output_length": 1}\n',
            1,
            1,
            "timestamp",
            "0",
            "milliseconds",
        ),
        (
            "mooncake",
            "".join(f'{{"timestamp": {at}, "input_length": 5, "output_length": 1}}\n' for at in (9, 8)),
            2,
            2,
            "timestamp",
            "8",
            "must not decrease",
        ),
    ],
)
def test_a_bad_cell_is_named(
    tmp_path: Path, kind: str, text: str, row: int, line: int, column: str, value: str, said: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadTrace) as caught:
        load(path, kind)
    error = caught.value
    assert (error.path, error.row, error.line, error.column, error.value) == (path, row, line, column, value)
    for part in (str(path), f"row {row} (line {line})", column, said):
        assert part in str(error)
    assert len(str(error)) < 500  # a huge value is cut


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("azure", "", "is empty"),
        ("azure", "\n\n", "is empty"),
        ("azure", AZURE, "no rows"),
        ("azure", GOOD, "expected TIMESTAMP,ContextTokens,GeneratedTokens"),
        ("azure", "TIMESTAMP,Context\n1,2\n", "found the columns 'TIMESTAMP,Context'"),
        ("azure", "TIMESTAMP,TIMESTAMP,ContextTokens,GeneratedTokens\n", "more than once"),
        ("azure", (AZURE + GOOD).replace(",", ";"), "semicolons"),
        ("azure", (AZURE + GOOD).replace(",", "\t"), "tabs"),
        ("azure", AZURE + GOOD + "2023-11-16 18:17:04,3\n", "row 2 (line 3): has 2 values; the header has 3 columns"),
        ("azure", AZURE + '"2023-11-16 18:17:04,3,4\n', "quotes"),
        ("azure", AZURE.encode("utf-16"), "UTF-16"),
        ("azure", b"PAR1" + bytes(50), "Parquet"),
        ("azure", AZURE.encode() + b"\0\0\0", "line 2: holds a zero byte"),
        ("azure", AZURE.encode() + b"2023-11-16 18:17:04,3,\xff\n", "not UTF-8"),
        ("azure", (AZURE + GOOD).replace("\n", "\r"), "LF or CR LF"),
        ("azure", AZURE + "9" * (LONGEST_LINE + 5), "longer than"),
        ("requests", AZURE + GOOD, "arrival_s, input_tokens, output_tokens missing"),
        ("demand", "t_s,prod,dev\n0,1,1\n1,1,1\n", "FILE#COLUMN"),
        ("demand", "t_s,requests,input_tokens\n0,1,1\n60,1,1\n", "no column output_tokens; give the mean"),
        ("demand", "t_s,input_tokens,output_tokens\n0,1,1\n60,1,1\n", "no column requests"),
        ("demand", DEMAND + "0,1,1,1\n", "one row"),
        ("demand", DEMAND + "0,1,1,1\n0,1,1,1\n", "repeats"),
        ("burstgpt", "t_s,all\n0,5\n3600,7\n", "give the mean input_tokens"),
        ("burstgpt", "t_s,total_tokens\n0,5\n3600,7\n", "give the mean input_tokens and output_tokens"),
        ("burstgpt", "a,b\n0,5\n", "Timestamp,Request tokens"),
        ("servegen", "t_s,rate\n0,5\n", "expected t_s,requests,est_input_tokens"),
        ("servegen", "t_s,c0,c1\n0,5,5\n", "not named *_client_rate_rps*"),
        ("mooncake", "", "is empty"),
        ("mooncake", AZURE, "row 1 (line 1): 'TIMESTAMP,"),
        ("mooncake", "[1, 2]\n", "not a JSON object"),
        ("mooncake", "[" * 100_000, "nested too deeply"),
        ("mooncake", '{"timestamp": 0}\n', "input_length missing"),
        (
            "mooncake",
            '{"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1,2,3]}',
            "expected 2, one per 512",
        ),
        ("mooncake", '{"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1, "x"]}', "not a list"),
        (
            "mooncake",
            "".join(
                f'{{"timestamp": 0, "input_length": 5, "output_length": 1{more}}}\n'
                for more in (', "hash_ids": [1]', "")
            ),
            "row 2 (line 2), column hash_ids: is missing here",
        ),
    ],
)
def test_a_bad_file_is_refused_with_the_remedy(tmp_path: Path, kind: str, text: str | bytes, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadTrace) as caught:
        load(path, kind)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_gzip_is_known_by_content_and_its_damage_is_said(tmp_path: Path) -> None:
    rows = AZURE + "".join(
        f"2023-11-16 18:{at // 60:02}:{at % 60:02},{at + 1},{at * 7919 % 997 + 1}\n" for at in range(3000)
    )
    packed = gzip.compress(rows.encode())
    whole = workload(write(tmp_path, packed, "named.csv"), "azure")
    assert whole.fingerprint() == workload(write(tmp_path, rows, "plain.csv.gz"), "azure").fingerprint()
    for damaged in (packed[: len(packed) // 2], packed[:-4], packed[:200] + b"junk" + packed[204:]):
        with pytest.raises(BadTrace, match="truncated or damaged after line"):
            load(write(tmp_path, damaged), "azure")


def test_missing_files_folders_and_pipes_are_said(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="No such file"):
        load(tmp_path / "nowhere.csv", "azure")
    with pytest.raises(BadTrace, match="not a regular file"):
        load(tmp_path, "azure")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadTrace, match="not a regular file"):
        load(tmp_path / "pipe", "azure")


def test_settings_that_cannot_be_are_said(tmp_path: Path) -> None:
    path = write(tmp_path, DEMAND + "0,1,1,1\n60,1,1,1\n")
    with pytest.raises(BadSettings, match="choose one of azure, mooncake, burstgpt, servegen, requests, demand"):
        load(path, "csv")
    for wrong in (0, -5, float("nan"), float("inf"), 1e9):
        with pytest.raises(BadSettings, match="input_tokens"):
            load(path, "demand", input_tokens=wrong)
    with pytest.raises(BadSettings, match="FILE#COLUMN"):
        load(f"{path}#x", "azure")
    with pytest.raises(BadTrace, match="x missing"):
        load(f"{path}#x", "demand")


def test_windows_spreadsheets_and_odd_spacing_are_read(tmp_path: Path) -> None:
    plain = workload(write(tmp_path, AZURE + GOOD, "a.csv"), "azure")
    odd = '\ufeff"timestamp", contexttokens ,GENERATEDTOKENS\r\n\r\n2023-11-16T18:17:03.97996, 4808.0 ,"10"\r\n  \r\n'
    assert workload(write(tmp_path, odd, "b.csv"), "azure").fingerprint() == plain.fingerprint()


def test_zones_in_different_spellings_are_one(tmp_path: Path) -> None:
    text = AZURE + "2024-05-10 00:00:00+00:00,1,1\n2024-05-10 00:00:01.5Z,1,1\n2024-05-10T00:00:02+0000,1,1\n"
    assert workload(write(tmp_path, text), "azure").arrival_s.tolist() == [0.0, 1.5, 2.0]


def test_burstgpt_failures_count_as_one_token_and_are_noted(tmp_path: Path) -> None:
    text = BURST + "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,API log\n45,GPT-4,9,3,12,API log\n"
    loaded = workload(write(tmp_path, text), "burstgpt")
    assert loaded.arrival_s.tolist() == [0, 40, 40]
    assert loaded.output.tolist() == [18, 1, 3]
    assert loaded.kind is not None
    assert loaded.kind.tolist() == [1, 0, 0]
    said = " | ".join(loaded.notes)
    for part in ("1 requests with 0 output tokens", "0 = API log, 1 = Conversation log", "at 5.000000 s", "Model"):
        assert part in said


def test_requests_keep_their_times_classes_and_cached_tokens(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens,cached_tokens,class\n5.5,100,10,0,2\n6,100,10,100,0\n"
    loaded = workload(write(tmp_path, text), "requests")
    assert loaded.arrival_s.tolist() == [5.5, 6]
    assert loaded.kind is not None
    assert loaded.kind.tolist() == [2, 0]
    assert loaded.cached is not None
    assert loaded.cached.tolist() == [0, 99]  # the last prompt token is always computed
    unix = workload(write(tmp_path, REQUESTS + "1700000000,1,1\n1700000002.5,1,1\n"), "requests")
    assert unix.arrival_s.tolist() == [0, 2.5]
    assert "time 0 is the first request" in unix.notes[0]


def test_demand_fills_missing_columns_from_means(tmp_path: Path) -> None:
    path = write(tmp_path, "t_s,input_tokens\n600,1000\n1200,0\n1800,3000\n")
    loaded = load(path, "demand", input_tokens=100, output_tokens=7)
    assert isinstance(loaded, DemandSeries)
    assert loaded.t_s.tolist() == [0, 600, 1200]
    assert loaded.requests.tolist() == [10, 0, 30]
    assert loaded.output.tolist() == [70, 0, 210]
    assert "time 0 is t_s 600 of the file" in loaded.notes


def test_every_array_is_read_only(tmp_path: Path) -> None:
    loaded = workload(write(tmp_path, AZURE + GOOD), "azure")
    for array in (loaded.arrival_s, loaded.prompt, loaded.output):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_a_workload_refuses_what_no_engine_can_serve() -> None:
    good = {"name": "w", "arrival_s": np.array([0.0, 1.0]), "prompt": np.array([5, 5]), "output": np.array([1, 1])}
    for field, value, said in (
        ("arrival_s", np.array([1.0, 0.0]), "must not decrease"),
        ("arrival_s", np.array([0.0, np.nan]), "finite"),
        ("prompt", np.array([5, 0]), "1..10000000"),
        ("prompt", np.array([5]), "shape"),
        ("output", np.array([1.0, 2.0]), "whole"),
        ("cached", np.array([0, 5]), "less than the prompt"),
        ("kind", np.array([0, 128]), "0..127"),
        ("blocks", (np.array([1]),), "1 entries for 2"),
        ("horizon_s", 0.5, "last arrival"),
    ):
        with pytest.raises(ValueError, match=said):
            Workload(**(good | {field: value}))  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(Format), st.binary(max_size=300))
@example(Format.AZURE, b"\x1f\x8b")
@example(Format.MOONCAKE, b'{"timestamp": 1e400, "input_length": 1, "output_length": 1}')
@example(Format.MOONCAKE, b'{"timestamp": 0, "input_length": true, "output_length": 1}')
def test_no_bytes_at_all_cause_anything_but_a_named_error(tmp_path: Path, kind: Format, raw: bytes) -> None:
    try:
        load(write(tmp_path, raw), kind)
    except TidegateError as error:
        assert str(error)  # noqa: PT017 - garbage may also happen to be a sound file


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.text(alphabet='0123456789.-+eE_naif",;: TZ', max_size=8), min_size=3, max_size=3), max_size=4)
)
def test_garbage_cells_cause_a_named_error_or_a_sound_workload(tmp_path: Path, rows: list[list[str]]) -> None:
    text = REQUESTS + "".join(",".join(row) + "\n" for row in rows)
    try:
        loaded = load(write(tmp_path, text), "requests")
    except BadTrace as error:
        assert "trace.csv" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert len(loaded) >= 1
