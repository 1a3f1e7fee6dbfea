"""A bundle's card quotes the figures of its results file, and nothing else."""

import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from custom_components.errors import InputError
from custom_components.training import write_scores

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(p.parents[1] for p in ROOT.glob("bundles/*/docs/results.json"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("model_card", ROOT / "scripts" / "model_card.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The hippocampus bundle's texts with scores of three cases, one of which missed a class."""
    source = ROOT / "bundles" / "hippocampus_mri_segmentation"
    for name in ("docs/README.md", "configs/metadata.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(source / name, tmp_path / name)
    good = {"dice": 0.9, "surface_dice": 0.95, "hd95_mm": 1.5}
    missed = {"dice": 0.0, "surface_dice": 0.0, "hd95_mm": float("nan")}
    cases = {"a": {"anterior": good, "posterior": good}, "b": {"anterior": good, "posterior": missed}}
    facts = {"data": "Task04_Hippocampus", "tolerance_mm": 1.0, "cases": "validation", "fold": 0, "folds": "auto"}
    write_scores(cases, tmp_path / "docs", "results", facts)
    return tmp_path


def test_table_and_metadata(script: ModuleType, bundle: Path) -> None:
    script.main(bundle)
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert "| anterior | 0.900 (0.900 – 0.900) | 0.950 (0.950 – 0.950) | 1.50 (1.50 – 1.50) |" in text
    assert "| posterior | 0.450 (0.000 – 0.900) | 0.475 (0.000 – 0.950) | 1.50 (1.50 – 1.50, 1 undefined) |" in text
    assert "Mean over 2 cases of Task04_Hippocampus (the validation cases of fold 0" in text
    values = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert values["eval_metrics"]["mean_dice"] == 0.675
    assert values["eval_metrics"]["posterior_dice"] == 0.45

    before = text
    script.main(bundle, check=True)
    script.main(bundle)
    assert (bundle / "docs" / "README.md").read_text(encoding="utf-8") == before


def test_check_finds_a_figure_that_was_typed(script: ModuleType, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(bundle)
    path = bundle / "docs" / "README.md"
    path.write_text(path.read_text(encoding="utf-8").replace("0.900 (", "0.990 ("), encoding="utf-8")
    with pytest.raises(SystemExit, match="1"):
        script.main(bundle, check=True)
    assert "not up to date" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("docs/results.json", None, "cannot be read"),
        ("docs/results.json", "{", "not valid JSON"),
        ("docs/results.json", "[]", "JSON object"),
        ("docs/results.json", '{"summary": {}}', "no scores.json"),
        ("docs/README.md", "no markers", "must have"),
    ],
)
def test_bad_input_is_named(script: ModuleType, bundle: Path, file: str, content: str | None, message: str) -> None:
    (bundle / file).unlink() if content is None else (bundle / file).write_text(content)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        script.card(bundle)
    assert str(bundle) in str(error.value)


@pytest.mark.parametrize("shipped", BUNDLES, ids=lambda p: p.name)
def test_shipped_cards_agree_with_their_results(script: ModuleType, shipped: Path) -> None:
    expected: dict[Path, Any] = script.card(shipped)
    for path, text in expected.items():
        assert path.read_text(encoding="utf-8") == text, f"run: python scripts/model_card.py bundles/{shipped.name}"
