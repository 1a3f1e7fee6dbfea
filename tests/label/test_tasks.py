"""The tasks by themselves, where files go or a disk is full at a moment that no client can choose."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from custom_components.errors import InputError
from custom_components.label_app.collection import Collection

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("label_server")


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with room for half of a text."""
    real = Path.write_text

    def half(path: Path, text: str, *arguments: Any, **options: Any) -> int:
        real(path, text[: len(text) // 2], *arguments, **options)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", half)


def test_a_domain_that_has_gone_is_an_error_and_no_model(collection: Collection) -> None:
    from custom_components.label_app.app import LabelApp
    from custom_components.label_app.infer import SegmentTask

    bundle = collection.split()[0][0]
    with pytest.raises(InputError, match="many: has no domain 'kidney_ct'; it has liver_ct, spleen_ct"):
        SegmentTask(bundle, "kidney_ct")
    listed = {"many.kidney_ct": "kidney_ct", "many.liver_ct": "liver_ct"}  # and then it went
    app = SimpleNamespace(bundles=[bundle], _infers={}, _models=lambda _: listed)
    LabelApp._refresh(app)
    assert list(app._infers) == ["many.liver_ct"]


def test_weights_that_have_gone_are_an_input_error(collection: Collection) -> None:
    from custom_components.label_app.infer import SegmentTask

    bundle = collection.split()[0][0]
    task = SegmentTask(bundle, "liver_ct")
    (bundle.models / "liver_ct.safetensors").unlink()
    with pytest.raises(InputError, match=r"liver_ct\.safetensors: cannot be read"):
        task._segmenter("liver_ct", "cpu")


def test_scores_stay_whole_on_a_full_disk(collection: Collection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from custom_components.label_app.train import AdapterTrainTask

    task = AdapterTrainTask(collection.split()[0][0], collection)
    (tmp_path / "run" / "out").mkdir(parents=True)
    (tmp_path / "run" / "out" / "kidney_ct.json").write_text(json.dumps({"summary": {"mean": {"dice": {"mean": 0.5}}}}))
    said = task._note("kidney_ct", 3, 2, tmp_path / "run", 1.0)
    assert task.stats() == said and (said["best_metric"], said["cases"]) == (0.5, 3)
    full(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        task._note("kidney_ct", 4, 2, tmp_path / "run", 1.0)
    assert task.stats() == said
    assert [path.name for path in task._runs.iterdir()] == ["train_stats.json"]


def test_a_description_for_the_training_is_whole_or_absent(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    from custom_components.label_app import train

    def dataset(_cases: Any, _domain: Any, folder: Path, _share: float) -> str:
        folder.mkdir(parents=True)
        return "identity"

    monkeypatch.setattr(train, "corrected_cases", lambda *_, **__: [])
    monkeypatch.setattr(train, "write_dataset", dataset)
    task = train.AdapterTrainTask(collection.split()[0][0], collection)
    full(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        task({"domain": "liver_ct"}, None)
    (run,) = task._runs.glob("liver_ct_trained_*")
    assert list(run.iterdir()) == []


def test_what_a_training_starts_from_reaches_its_configuration(
    collection: Collection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """MONAI drops overrides that are None, and the configuration's own default is not to start from random values."""
    from monai.bundle.scripts import update_kwargs

    from custom_components.label_app import train

    bundle = collection.split()[0][0]
    task = train.AdapterTrainTask(bundle, collection)
    configs = ROOT / "bundles" / "universal_segmentation" / "configs"
    monkeypatch.setattr(task, "_configs", lambda: configs)
    given: dict[str, Any] = {}
    monkeypatch.setattr(train, "run_bundle", lambda **values: given.update(values))
    numbers = {"max_epochs": 1, "steps_per_epoch": 1, "learning_rate": 0.1}
    own = bundle.models / "liver_ct.safetensors"
    for choice, expected in zip(train.STARTS, (own, bundle.models, "random"), strict=True):
        start = task._start(choice, "liver_ct", "liver_ct_trained")
        task._train(bundle.domains()["liver_ct"], tmp_path, start, "cpu", numbers)
        adapt = json.loads((configs / "adapt.json").read_text())
        assert update_kwargs(adapt, **given)["warm_start"] == str(expected)
