"""The page of results: numbers recomputed from the cases, and what must not be put side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.experiments.results import read_results
from custom_components.experiments.results_figure import COLOURS, draw_results
from custom_components.experiments.results_page import paired_difference, results_page
from custom_components.training import summarise
from scripts.results_page import app

MADE = {"date": "2026-01-02T03:04:05+00:00", "commit": "abc", "cpu": "a processor", "gpu": None, "threads": 3}


def report(seed: int, shift: float, classes: tuple[str, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    cases = {f"case_{i}": {c: {"dice": round(float(rng.uniform(0.5, 0.8)) + shift, 6)} for c in classes} for i in range(12)}
    return {"cases": cases, "summary": summarise(cases), "made": MADE}


def result(run: str, setup: str, scores: dict[str, Any], steps: int = 100) -> dict[str, Any]:
    return {
        "run": run,
        "setup": setup,
        "domains": list(scores),
        "fold": 0,
        "options": [],
        "configurations": "1a",
        "descriptions": {},
        "steps_per_domain": steps,
        "training_seconds": 1800.0,
        "parameters": {"trunk": 1000, **dict.fromkeys(scores, 250)},
        "command": "python",
        "scores": scores,
    }


@pytest.fixture(scope="module")
def described(repository: Path) -> dict[str, Domain]:
    found = [Domain.from_file(path) for path in repository.glob("bundles/*/configs/domain.json")]
    return {domain.name: domain for domain in found}


@pytest.fixture
def results() -> list[dict[str, Any]]:
    liver, heart = ("liver", "tumour"), ("atrium",)
    return [
        result("universal", "universal", {"liver_ct": report(0, 0.1, liver), "heart_mri": report(1, 0.0, heart)}),
        result("independent_liver_ct", "independent", {"liver_ct": report(0, 0.0, liver)}),
        result("independent_heart_mri", "independent", {"heart_mri": report(1, 0.05, heart)}),
    ]


def cells(page: str, row: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {row}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_every_number_is_that_of_the_cases(results: list[dict[str, Any]], described: dict[str, Domain]) -> None:
    page = results_page(results, described)
    cases = results[0]["scores"]["liver_ct"]["cases"]
    tumour = np.mean([case["tumour"]["dice"] for case in cases.values()])
    mean = np.mean([np.mean([s["dice"] for s in case.values()]) for case in cases.values()])
    assert cells(page, "liver_ct, tumour (12)")[0].startswith(f"{tumour:.3f} (")
    assert cells(page, "**liver_ct, mean** (12)")[0].startswith(f"{mean:.3f} (")
    heart = np.mean([case["atrium"]["dice"] for case in results[0]["scores"]["heart_mri"]["cases"].values()])
    assert cells(page, "**mean over domains**")[0] == f"**{(mean + heart) / 2:.3f}**"
    # Every case differs by the same: so does their mean, and so do both ends of the interval.
    liver, heart_difference, both = cells(page, "universal | +")[-3:] if "| universal | +" in page else []
    assert liver == "+0.100 (+0.100 … +0.100)"
    assert heart_difference == "-0.050 (-0.050 … -0.050)"
    assert both == "+0.025"
    assert re.search(r"\| independent \| 2 \| 2,500 \| 250 … 250 \| 3 \| 1.0 \|", page)


def test_what_the_intervals_exclude_is_said(results: list[dict[str, Any]], described: dict[str, Domain]) -> None:
    page = results_page(results, described)
    assert "- **universal** +0.025 on average over the 2 domains; loses in heart_mri; wins in liver_ct." in page
    alike = [{**item, "scores": {d: report(3, 0.0, ("a",)) for d in item["scores"]}} for item in results]
    assert "- **universal** +0.000 on average over the 2 domains; no domain's interval excludes zero." in results_page(
        alike, described
    )
    assert "on average" not in results_page(results[:2], described)  # not every domain has an independent network


def test_parameters_of_one_for_all(results: list[dict[str, Any]], described: dict[str, Domain]) -> None:
    page = results_page(results, described)
    assert cells(page, "the 5 of the paper")[:2] == ["134,508,692", "6,577,460 (4.89%)"]
    del results[1:]
    results[0]["scores"] = {"nobody_ct": report(0, 0.0, ("a",))}
    with pytest.raises(InputError, match="no description of domain 'nobody_ct'"):
        results_page(results, described)


def test_differences_are_of_the_cases_that_both_have() -> None:
    first, second = report(0, 0.0, ("a",))["cases"], report(5, 0.0, ("a",))["cases"]
    only = {name: first[name] for name in ("case_3", "case_7")}
    mean, low, high = paired_difference(only, second) or (0, 0, 0)
    expected = [first[c]["a"]["dice"] - second[c]["a"]["dice"] for c in only]
    assert mean == pytest.approx(np.mean(expected))
    assert (low, high) == (pytest.approx(min(expected)), pytest.approx(max(expected)))
    assert paired_difference(only, {}) is None


def test_other_budgets_do_not_stand_in_one_table(results: list[dict[str, Any]], described: dict[str, Domain]) -> None:
    more = result("universal", "universal", {"liver_ct": report(3, 0.2, ("liver", "tumour"))}, steps=400)
    page = results_page([*results, more], described)
    assert "had 100 or 400 steps" in page
    first, second = page.split("## Dice, 400 steps of each domain")
    second = second.split("## Sizes")[0]
    expected = more["scores"]["liver_ct"]["summary"]["mean"]["dice"]["mean"]
    assert cells(second, "**liver_ct, mean**")[0].startswith(f"{expected:.3f}")
    assert f"{expected:.3f}" not in first
    assert "no independent networks" in second and "no independent networks" not in first
    assert cells(page, "universal | 1 |")[-3:] == ["3", "0.5", "0.5"]


def test_what_cannot_be_compared_is_refused(results: list[dict[str, Any]], described: dict[str, Domain]) -> None:
    with pytest.raises(InputError, match="two results of universal at 100 steps"):
        results_page([*results, results[0]], described)
    for key, one, other in (("options", [], ["--lr", "0.1"]), ("configurations", "1a", "2b")):
        mixed = [{**results[0], key: one}, {**results[1], key: other}]
        with pytest.raises(InputError, match=f"other {key[:6]}"):
            results_page(mixed, described)
    page = results_page([{**item, "options": ["--lr", "0.1"]} for item in results], described)
    assert "train.json` but `--lr 0.1`," in page
    results[1].update(fold=2)
    with pytest.raises(InputError, match="folds 0, 2"):
        results_page(results, described)
    page = results_page([{**item, "fold": 2} for item in results], described)
    assert "validation cases of fold 2" in page


def test_the_script_writes_the_page_and_refuses_other_files(
    results: list[dict[str, Any]], described: dict[str, Domain], repository: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    output = tmp_path / "RESULTS.md"
    call = ["--results-dir", str(folder), "--output", str(output), "--bundles", str(repository / "bundles")]
    assert "has no results" in CliRunner().invoke(app, call).output
    for item in results:
        (folder / f"{item['run']}.json").write_text(json.dumps(item))
    (folder / "notes.md").write_text("The rate came from short trials.\n")
    assert CliRunner().invoke(app, call).exit_code == 0
    notes = "The rate came from short trials."
    assert output.read_text() == results_page(read_results(folder), described, notes, "RESULTS.png")
    assert notes in output.read_text().split("## Dice,")[0]
    assert "(RESULTS.png)" in output.read_text()
    before = output.read_text()
    for key in ("fold", "options", "configurations", "descriptions"):
        old = {name: value for name, value in results[0].items() if name != key}
        (folder / "universal.json").write_text(json.dumps(old))
        refused = CliRunner().invoke(app, call)
        assert refused.exit_code == 1
        assert f"universal.json: was made by an older version of scripts/compare_setups.py, which did not note {key};" in (
            refused.output
        )
    for broken, told in (
        ({"scores": {}}, "universal.json: scores: "),
        ({"scores": []}, "universal.json: scores: "),
        ({"scores": {"liver_ct": {"summary": {}, "cases": {"a": {}}, "made": MADE}}}, "liver_ct: Value error, has no mean"),
        ({"parameters": {}}, "parameters: has no heart_mri"),
        ({"setup": []}, "is no result of scripts/compare_setups.py"),
        ({"fold": "0"}, "universal.json: fold: "),
        ({"options": None}, "universal.json: options: "),
    ):
        (folder / "universal.json").write_text(json.dumps({**results[0], **broken}))
        refused = CliRunner().invoke(app, call)
        assert (refused.exit_code, "Error" in refused.output) == (1, True)
        assert told in " ".join(refused.output.split())
    (folder / "universal.json").write_text(json.dumps(results[0]))
    (folder / "scores.json").write_text("{}")
    refused = CliRunner().invoke(app, call)
    assert refused.exit_code == 1
    assert "scores.json" in refused.output
    assert output.read_text() == before


def test_the_picture_shows_dice_on_a_straight_axis(tmp_path: Path) -> None:
    colour = tuple(int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))
    places = []
    for dice in (0.2, 0.5, 0.8):
        fixed = {"dice": {"mean": dice, "ci95_low": dice - 0.05, "ci95_high": dice + 0.05}}
        path = draw_results(
            [result("universal", "universal", {"liver_ct": {"summary": {"mean": fixed}}})], tmp_path / f"{dice}.png"
        )
        picture = np.asarray(Image.open(path).convert("RGB"))
        below_legend = picture[picture.shape[0] // 3 :]
        columns = np.nonzero((below_legend == colour).all(-1))[1]
        places.append((columns.min() + columns.max()) / 2)
    steps = np.diff(places)
    assert steps[0] > 50
    assert steps[0] == pytest.approx(steps[1], abs=1)


def test_the_picture_has_what_the_results_have(results: list[dict[str, Any]], tmp_path: Path) -> None:
    independent = tuple(int(COLOURS[1][i : i + 2], 16) for i in (1, 3, 5))
    for some, there in ((results, True), (results[:1], False)):
        picture = np.asarray(Image.open(draw_results(some, tmp_path / "page.png")).convert("RGB"))
        assert (picture == independent).all(-1).any() == there
