"""Data lists: the right files, the right side of the right fold, and the same ones every time."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_components.data import datalist, five_folds, fold_names, read_dataset
from custom_components.errors import InputError
from tests.phantoms import decathlon

FOLD_TABLE = Path(__file__).parents[2] / "custom_components" / "data" / "fold_splits.json"

case_names = st.lists(st.text("abcdefgh_0123456789", min_size=1, max_size=8), min_size=5, max_size=40, unique=True)


def empty_dataset(folder: Path, names: list[str], **changes: Any) -> Path:
    """A data set of empty files: lists do not open images."""
    for name in names:
        for kind in ("imagesTr", "labelsTr"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / f"{name}.nii.gz").touch()
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    described = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "organ"}, "training": entries} | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def names_of(cases: list[dict[str, Any]]) -> list[str]:
    return [case["case"] for case in cases]


@given(names=case_names)
def test_five_folds_part_the_cases_and_depend_on_the_names_only(names: list[str]) -> None:
    folds = five_folds(names)
    assert folds == five_folds(names[::-1])
    assert sorted(name for _, val in folds for name in val) == sorted(names)
    for train, val in folds:
        assert not set(train) & set(val)
        assert set(train) | set(val) == set(names)
        assert len(names) // 5 <= len(val) <= -(-len(names) // 5)


def test_five_folds_are_frozen() -> None:
    """A fold that changed would put training cases into validation without anyone noticing."""
    names = [f"case_{i:02d}" for i in range(12)]
    assert [val for _, val in five_folds(names)] == [
        ["case_00", "case_06", "case_08"],
        ["case_01", "case_05", "case_11"],
        ["case_04", "case_07"],
        ["case_09", "case_10"],
        ["case_02", "case_03"],
    ]


@pytest.mark.parametrize("task", list(json.loads(FOLD_TABLE.read_text())))
def test_the_original_folds_part_the_cases(task: str) -> None:
    folds = json.loads(FOLD_TABLE.read_text())[task]
    everyone = set(folds["fold0"]["train"]) | set(folds["fold0"]["val"])
    assert sorted(folds) == [f"fold{i}" for i in range(5)]
    assert sorted(n for f in folds.values() for n in f["val"]) == sorted(everyone)
    assert all(sorted(f["train"] + f["val"]) == sorted(everyone) for f in folds.values())


def test_a_section_lists_files_that_are_there(phantom_data: Path) -> None:
    cases = datalist(phantom_data, "training", 1)
    assert names_of(cases) == sorted(names_of(cases))
    for case in cases:
        assert Path(case["image"]).is_file()
        assert Path(case["label"]).is_file()
        assert Path(case["image"]).name == f"{case['case']}.nii.gz" == Path(case["label"]).name
    both = names_of(cases) + names_of(datalist(phantom_data, "validation", 1))
    assert sorted(both) == names_of(datalist(phantom_data, "all"))


def test_auto_takes_the_original_folds_when_every_case_is_there(tmp_path: Path) -> None:
    fold = json.loads(FOLD_TABLE.read_text())["Task02_Heart"]["fold3"]
    folder = empty_dataset(tmp_path / "Task02_Heart", fold["train"] + fold["val"])
    for folds in ("auto", "original"):
        assert names_of(datalist(folder, "validation", 3, folds)) == sorted(fold["val"])
        assert names_of(datalist(folder, "training", 3, folds)) == sorted(fold["train"])


def test_auto_makes_five_folds_when_a_case_is_missing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fold = json.loads(FOLD_TABLE.read_text())["Task02_Heart"]["fold0"]
    folder = empty_dataset(tmp_path / "Task02_Heart", fold["train"])
    with caplog.at_level(logging.INFO):
        auto = datalist(folder, "validation", 0)
    assert auto == datalist(folder, "validation", 0, "five")
    assert "4 of the 20 cases it names are not there" in caplog.text
    with pytest.raises(InputError, match="4 of the 20 cases it names are not there"):
        datalist(folder, "validation", 0, "original")


def test_a_task_the_table_does_not_know(phantom_data: Path) -> None:
    assert datalist(phantom_data, "training", 0, "auto") == datalist(phantom_data, "training", 0, "five")
    with pytest.raises(InputError, match="no task 'Task99_Phantom'"):
        datalist(phantom_data, "training", 0, "original")


@pytest.mark.parametrize("by_task", [True, False])
def test_folds_from_a_file(tmp_path: Path, by_task: bool) -> None:
    folder = empty_dataset(tmp_path / "Task50_Own", ["a", "b", "c"])
    folds: dict[str, Any] = {"fold0": {"train": ["a", "b"], "val": ["c"]}, "fold1": {"train": ["c"], "val": ["a"]}}
    (tmp_path / "folds.json").write_text(json.dumps({"Task50_Own": folds} if by_task else folds))
    assert names_of(datalist(folder, "training", 0, tmp_path / "folds.json")) == ["a", "b"]
    assert names_of(datalist(folder, "validation", 1, str(tmp_path / "folds.json"))) == ["a"]


def test_cases_on_no_side_of_a_given_fold_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "folds.json").write_text(json.dumps({"fold0": {"train": ["a"], "val": ["b"]}}))
    fold_names(["a", "b", "c"], "Task50_Own", 0, tmp_path / "folds.json")
    assert "1 cases are on neither side" in caplog.text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "no folds for task"),
        ('{"fold0": {"train": ["a"]}}', "must have the lists"),
        ('{"fold0": {"train": ["a"], "val": []}}', "empty side"),
        ('{"fold0": {"train": ["a", "b"], "val": ["b"]}}', "on both sides: b"),
        ('{"fold0": {"train": ["a"], "val": ["z"]}}', "names 1 cases that .* does not have: z"),
    ],
)
def test_a_bad_file_of_folds_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "folds.json").write_text(content)
    with pytest.raises(InputError, match=says):
        fold_names(["a", "b"], "Task50_Own", 0, tmp_path / "folds.json")


@pytest.mark.parametrize("fold", [5, -1, True, 1.0, "0"])
def test_a_fold_that_does_not_exist_is_refused(phantom_data: Path, fold: Any) -> None:
    with pytest.raises(InputError, match=r"no fold .*; there are folds 0 to 4"):
        datalist(phantom_data, "training", fold)


def test_too_few_cases_for_five_folds(tmp_path: Path) -> None:
    folder = empty_dataset(tmp_path / "Task50_Own", ["a", "b", "c"])
    with pytest.raises(InputError, match="has 3 cases"):
        datalist(folder)
    assert names_of(datalist(folder, "all")) == ["a", "b", "c"]


def test_an_unknown_section_is_refused(phantom_data: Path) -> None:
    with pytest.raises(InputError, match="must be training, validation or all"):
        datalist(phantom_data, "test")


def test_the_twins_macos_leaves_are_passed_over(tmp_path: Path) -> None:
    folder = empty_dataset(tmp_path / "Task50_Own", ["a", "._a", "b"])
    assert names_of(datalist(folder, "all")) == ["a", "b"]


def test_an_image_may_be_several_files(tmp_path: Path) -> None:
    entry = {"image": ["imagesTr/a.nii.gz", "imagesTr/b.nii.gz"], "label": "labelsTr/a.nii.gz"}
    folder = empty_dataset(tmp_path / "Task50_Own", ["a", "b"], training=[entry])
    assert datalist(folder, "all")[0]["image"] == [str(folder / "imagesTr/a.nii.gz"), str(folder / "imagesTr/b.nii.gz")]


def test_modality_and_labels_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = {str(i): f"channel {i}" for i in reversed(range(11))}
    dataset = read_dataset(empty_dataset(tmp_path / "Task50_Own", ["a"], modality=names))
    assert dataset.channels == tuple(f"channel {i}" for i in range(11))
    assert dataset.labels == {0: "background", 1: "organ"}
    assert dataset.task == "Task50_Own"


def test_the_task_is_known_by_its_folder_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = empty_dataset(tmp_path / "Task50_Own", ["a"])
    monkeypatch.chdir(folder)
    assert read_dataset(".").task == "Task50_Own"
    assert read_dataset(f"{folder}/").task == "Task50_Own"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training": None}, "no list 'training'"),
        ({"training": []}, "lists no training case"),
        ({"training": ["a"]}, r"training\[0\]: must be an object"),
        ({"training": [{"image": "a.nii.gz"}]}, r"training\[0\]: must be an object with 'image' and 'label'"),
        ({"training": [{"image": [3], "label": "a.nii.gz"}]}, "must be a path or a list of paths"),
        (
            {"training": [{"image": "no.nii.gz", "label": "labelsTr/a.nii.gz"}]},
            "1 of the files it lists are missing: .*no.nii.gz",
        ),
        ({"training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}] * 2}, "listed twice: a"),
        ({"labels": {"organ": "one"}}, "must map numbers to names"),
        ({"modality": ["MRI"]}, "must map numbers to names"),
    ],
)
def test_a_malformed_dataset_is_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    folder = empty_dataset(tmp_path / "Task50_Own", ["a"], **changes)
    with pytest.raises(InputError, match=says) as caught:
        datalist(folder, "all")
    assert str(folder / "dataset.json") in str(caught.value)


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        datalist(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"dataset\.json: cannot be read"):
        datalist(tmp_path)


def test_phantoms_are_the_same_under_a_seed(tmp_path: Path) -> None:
    roots = [decathlon(tmp_path / str(i), cases=2, channels=2, shape=(10, 12, 8)) for i in range(2)]
    for path in roots[0].rglob("*.nii.gz"):
        import nibabel as nib

        other = roots[1] / path.relative_to(roots[0])
        assert (nib.load(path).get_fdata() == nib.load(other).get_fdata()).all()


def test_real_data_gives_folds_with_no_option(hippocampus_data: Path) -> None:
    train, val = datalist(hippocampus_data), datalist(hippocampus_data, "validation")
    everyone = names_of(datalist(hippocampus_data, "all"))
    assert sorted(names_of(train) + names_of(val)) == everyone
    assert abs(len(train) - 4 * len(val)) <= 5
