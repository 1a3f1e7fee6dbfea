"""A description that contradicts dataset.json is refused before anything is trained; other names are only said."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from custom_components.data import check_agreement, check_foreground, datalist, read_dataset, training_cases
from custom_components.domain import Domain
from custom_components.errors import InputError
from tests.phantoms import decathlon, save_nifti

VALUES = json.loads(
    (Path(__file__).parents[2] / "bundles" / "hippocampus_mri_segmentation" / "configs" / "domain.json").read_text()
)


def domain(**changes: Any) -> Domain:
    return Domain.from_dict({**VALUES, "channels": ["MRI"], "postprocessing": {}, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decathlon(tmp_path_factory.mktemp("data"), cases=1, shape=(8, 9, 8))


def check(folder: Path, described: Domain, **changes: Any) -> None:
    path = folder / "dataset.json"
    before = path.read_text()
    values = {key: value for key, value in {**json.loads(before), **changes}.items() if value is not None}
    path.write_text(json.dumps(values))
    try:
        check_agreement(described, read_dataset(folder))
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("changes", "dataset"),
    [
        ({}, {}),
        ({}, {"labels": {"0": "background", "1": "ANTERIOR", "2": "posterior "}}),
        ({}, {"labels": None, "modality": None}),
        ({}, {"labels": {"1": "Anterior", "2": "Posterior"}}),
        (
            {"labels": {"background": 0, "hippocampus": 1}, "label_merges": {"2": 1}},
            {"labels": {"0": "background", "1": "Hippocampus", "2": "rest"}},
        ),
        ({"labels": {"background": 0, "anterior": 1}, "label_merges": {"2": 0}}, {}),
        ({"labels": {"background": 0, "whole": 1}, "label_merges": {"7": 1}}, {"labels": {"0": "background", "7": "whole"}}),
        ({"channels": ["T2", "ADC"]}, {"modality": {"0": "T2", "1": "ADC"}}),
    ],
)
def test_what_agrees_is_silent(
    folder: Path, changes: dict[str, Any], dataset: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    check(folder, domain(**changes), **dataset)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("changes", "dataset", "message"),
    [
        ({"channels": ["T2", "ADC"]}, {}, "has 1 channels (MRI), domain 'hippocampus_mri' has 2 (T2, ADC)"),
        ({"channels": ["T2", "ADC"]}, {"modality": {"0": "ADC", "1": "T2"}}, "has the order ADC, T2"),
        ({"labels": {"background": 0, "anterior": 1}}, {}, "has 2 ('Posterior'), which domain"),
        ({}, {"labels": {"0": "background", "1": "Anterior", "2": "Posterior", "3": "Tail"}}, "has 3 ('Tail')"),
        ({}, {"labels": {"0": "background", "1": "Anterior"}}, "has no value for 2 ('posterior')"),
        (
            {"labels": {"background": 0, "posterior": 1, "anterior": 2}},
            {},
            "has 'Posterior' as 2, domain 'hippocampus_mri' has 'posterior' as 1",
        ),
        ({"label_merges": {"3": 2}}, {"labels": {"0": "background", "1": "a", "2": "b", "3": "Anterior"}}, "has 'Anterior' as 3"),
        ({}, {"labels": {"0": "Anterior", "1": "background", "2": "Posterior"}}, "'labels' has '"),
    ],
)
def test_contradictions_are_refused(folder: Path, changes: dict[str, Any], dataset: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        check(folder, domain(**changes), **dataset)
    assert str(folder / "dataset.json") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "dataset", "message"),
    [
        ({"channels": ["T1"]}, {}, "channels MRI are called T1 in domain"),
        ({}, {"labels": {"0": "background", "1": "head", "2": "Posterior"}}, "(1: 'head' is 'anterior')"),
        ({"label_merges": {"9": 2}}, {}, "no such value as 9 of label_merges"),
    ],
)
def test_what_may_be_meant_is_said(
    folder: Path, changes: dict[str, Any], dataset: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check(folder, domain(**changes), **dataset)
    assert len(caplog.messages) == 1 and message in caplog.text


def test_the_bundles_agree_with_the_real_data(hippocampus_data: Path) -> None:
    check_agreement(Domain.from_dict(VALUES), read_dataset(hippocampus_data))


MERGED = {"labels": {"background": 0, "organ": 1}, "label_merges": {"2": 1, "3": 0}}


def labelled(folder: Path, *values: float) -> list[dict[str, Any]]:
    """One case for each value, which one voxel of its label has."""
    cases = []
    for index, value in enumerate(values):
        label = np.zeros((3, 4, 2), np.float32)
        label[1, 2, 0] = value
        cases.append({"case": f"case_{index}", "label": str(save_nifti(folder / f"case_{index}.nii.gz", label))})
    return cases


@pytest.mark.parametrize("values", [(1,), (2,), (0, 0, 1), (0, 3, 2), (0.99999,)])
def test_one_voxel_of_any_class_is_enough(tmp_path: Path, values: tuple[float, ...]) -> None:
    check_foreground(domain(**MERGED), labelled(tmp_path, *values))


@pytest.mark.parametrize("values", [(0,), (0, 3, 0), (4, 7)])
def test_labels_of_background_alone_are_refused(tmp_path: Path, values: tuple[float, ...]) -> None:
    """Values that are merged into it, and values that are no class, are background."""
    cases = labelled(tmp_path, *values)
    words = f"domain 'hippocampus_mri': none of its {len(cases)} training cases has a voxel of any class (the first label is "
    with pytest.raises(InputError, match=re.escape(words + cases[0]["label"])):
        check_foreground(domain(**MERGED), cases)


def test_no_label_is_read_after_the_first_with_foreground(tmp_path: Path) -> None:
    cases = labelled(tmp_path, 0, 1)
    check_foreground(domain(**MERGED), [*cases, {"case": "absent", "label": str(tmp_path / "absent.nii.gz")}])


def test_the_training_cases_of_a_fold_are_those_of_a_data_set_that_agrees(tmp_path: Path) -> None:
    data = decathlon(tmp_path, cases=5, shape=(8, 9, 8))
    assert training_cases(domain(), data, 2) == datalist(data, "training", 2)
    with pytest.raises(InputError, match="has 1 channels"):
        training_cases(domain(channels=["T1", "T2"]), data, 2)
    for path in (data / "labelsTr").iterdir():
        save_nifti(path, np.zeros((8, 9, 8), np.uint8))
    with pytest.raises(InputError, match="none of its 4 training cases"):
        training_cases(domain(), data, 2)
