"""The page is what the results say, and the results are of all readers and programs."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from tests.reliability.killing import FAULTS as KILL_FAULTS
from tests.reliability.programs import PROGRAMS
from tests.reliability.readers import READERS
from tests.reliability.report import PAGE, RESULTS, app, page
from tests.reliability.sandbox import FAULTS


def test_the_page_is_that_of_the_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.reliability.report"
    assert CliRunner().invoke(app, ["--check"]).exit_code == 0


def test_every_reader_had_its_inputs_and_showed_no_fault() -> None:
    values = json.loads((RESULTS / "fuzz.json").read_text(encoding="utf-8"))
    assert {result["reader"] for result in values["readers"]} == set(READERS)
    for result in values["readers"]:
        assert result["inputs"] == sum(result["counts"].values()) >= 10_000, result["reader"]
        assert not set(result["counts"]) & set(FAULTS), result
        assert 0 < result["counts"]["accepted"] < result["inputs"], "else nothing was learnt"


def test_every_program_was_killed_at_every_change() -> None:
    values = json.loads((RESULTS / "kill.json").read_text(encoding="utf-8"))
    assert {result["program"] for result in values["programs"]} == set(PROGRAMS)
    for result in values["programs"]:
        assert sum(result["at changes"].values()) == result["changes"] > 0
        assert not {*result["at changes"], *result["at random"]} & set(KILL_FAULTS), result
    assert sum(sum(r["at changes"].values()) + sum(r["at random"].values()) for r in values["programs"]) >= 50
