"""A few damaged files for every reader, in this process and in one that is watched; and that the watching sees what it must."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_components.domain import Domain, DomainError
from custom_components.errors import InputError
from custom_components.strict_json import parse_json
from tests.reliability.mutations import change_bytes
from tests.reliability.readers import READERS, Reader, Session, Wrong
from tests.reliability.sandbox import FAULTS, Limits, fuzz

EXAMPLES = 200
SLOW = {"adapter import": 60, "original checkpoint": 60, "DICOM series": 60, "NIfTI": 100}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Session]:
    opened: dict[str, Session] = {}

    def open_(name: str) -> Session:
        if name not in opened:
            opened[name] = READERS[name].open(tmp_path_factory.mktemp(name.replace(" ", "_")))
        return opened[name]

    return open_


@pytest.mark.parametrize("name", READERS)
def test_undamaged_files_are_read(name: str, sessions: Callable[[str], Session]) -> None:
    """Else every damaged one would be refused for another reason."""
    session = sessions(name)
    for index in range(3 * len(session.samples)):
        assert session.run(index, 0, unchanged=True) == ("accepted", "")


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_in_one_line(name: str, sessions: Callable[[str], Session]) -> None:
    session = sessions(name)
    # Those that the native libraries once could not bear are read by fuzz.py alone, in a process of its own.
    outcomes = [session.run(index, 1) for index in range(SLOW.get(name, EXAMPLES))]
    assert [outcome for outcome in outcomes if outcome[0] in FAULTS] == []
    refused = sum(kind != "accepted" for kind, _ in outcomes)
    assert refused > len(outcomes) / 10


def numbers(folder: Path) -> Iterable[Path]:
    """Files with one number each, for the readers below."""
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "number").write_bytes(b"0")
    yield folder / "a"


def count(content: bytes, rng: random.Random) -> bytes:
    return str(rng.randrange(10)).encode()


def reader(misbehave: Callable[[Path, Path], Any]) -> Reader:
    def read(folder: Path, place: Path) -> None:
        if place.read_text() == "3":
            misbehave(folder, place)
        raise InputError(f"{place}: refused")

    return Reader("made up", numbers, {"number": count}, read)


def left(folder: Path, place: Path) -> None:
    (folder / "half").write_text("written")
    raise InputError(f"{place}: refused")


def wrong(folder: Path, place: Path) -> None:
    raise Wrong("accepted")


def error(message: str, kind: type[Exception] = InputError) -> Callable[[Path, Path], None]:
    def raised(folder: Path, place: Path) -> None:
        made = kind.__new__(kind)
        ValueError.__init__(made, message.replace("{place}", str(place)))
        raise made

    return raised


@pytest.mark.parametrize(
    ("misbehave", "outcome"),
    [
        (lambda f, p: os.abort(), "crash"),
        (lambda f, p: os._exit(3), "crash"),
        (lambda f, p: time.sleep(1000), "hang"),
        (lambda f, p: bytearray(b"1") * 2**28, "memory"),
        (lambda f, p: bytearray(2**45), "memory"),
        (lambda f, p: sum(range(2 * 10**7)), "slow"),
        (lambda f, p: {}["key"], "undeclared"),
        (error("{place}: other", ValueError), "undeclared"),
        (error("no file is named"), "message"),
        (error("{place}: \x1b[31mred"), "message"),
        (error("{place}: two\nlines"), "message"),
        (error("{place}: half of a pair \ud800"), "message"),
        (error("{place}: " + "a" * 10_000), "message"),
        (left, "left behind"),
        (wrong, "wrong"),
    ],
)
def test_the_sandbox_sees(misbehave: Callable[[Path, Path], Any], outcome: str, tmp_path: Path) -> None:
    limits = Limits(wall=3.0 if outcome == "hang" else 60.0, cpu=0.1 if outcome == "slow" else 60.0, memory=2**27)
    found = fuzz(reader(misbehave), 0, 0, 12, tmp_path / "room", limits)
    numbers_drawn = [Session(reader(misbehave), [{"number": b"0"}], tmp_path).input(i, 0)[1]["number"] for i in range(12)]
    assert numbers_drawn.count(b"3") == 1
    assert found.inputs == 12
    assert found.counts == {"InputError": 11, outcome: 1}
    assert [f.index for f in found.findings] == [numbers_drawn.index(b"3")]


def test_an_input_depends_on_its_number_alone(sessions: Callable[[str], Session]) -> None:
    session = sessions("domain.json")
    inputs = [session.input(index, 0) for index in range(20)]
    assert [session.input(index, 0) for index in reversed(range(20))] == inputs[::-1]
    assert len({content for _, files in inputs for content in files.values()}) > 15
    assert session.input(3, 1) != inputs[3]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300)
@given(JSON)
def test_what_json_writes_is_read_again(value: Any) -> None:
    import json

    assert parse_json(json.dumps(value, ensure_ascii=True)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode("utf-8")) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '[{"b": {"c": 1, "c": 2}}]',
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e999",
        '"\\ud800"',
        '{"\\udfff": 1}',
        "[" * 10**5,
    ],
)
def test_what_means_two_things_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"twice|no JSON number|beyond|surrogates|deeply|Expecting"):
        parse_json(text)


@settings(max_examples=300)
@given(JSON)
def test_any_json_as_a_description_is_refused_in_one_line(value: Any) -> None:
    values = value if isinstance(value, dict) else {"name": value}
    with pytest.raises(DomainError) as caught:
        Domain.from_dict(values, "domain.json")
    assert str(caught.value).startswith("domain.json") and str(caught.value).isprintable()


@settings(max_examples=300)
@given(st.text())
def test_an_error_is_one_line_that_can_be_printed(text: str) -> None:
    message = str(InputError(f"file: {text}"))
    assert message.isprintable() and message.encode("utf-8")
    assert len(message) <= 2100
    if text.isprintable() and len(text) < 1900:
        assert message == f"file: {text}"


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=100), st.integers())
def test_bytes_are_changed_alike_by_equal_generators(content: bytes, seed: int) -> None:
    assert change_bytes(content, random.Random(seed)) == change_bytes(content, random.Random(seed))
