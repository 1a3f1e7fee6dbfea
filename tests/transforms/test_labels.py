"""Label values become class indices; nothing else gets through."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data import MetaTensor

from custom_components.data import read_label
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.transforms import MapLabels, MapLabelsd
from tests.phantoms import hippocampus_like, save_nifti

CLASSES = {"background": 0, "anterior": 1, "posterior": 2}


def label_of(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, 1, -1)


def test_classes_stay_merges_move_and_strays_are_counted() -> None:
    mapping = MapLabels(CLASSES, merges={3: 1}, stray="background")
    with pytest.warns(UserWarning, match=r"label: stray label value 7 \(1 voxel\), 254 \(2 voxels\) set to background"):
        mapped = mapping(label_of(0, 1, 2, 3, 254, 7, 254))
    assert mapped.flatten().tolist() == [0, 1, 2, 1, 0, 0, 0]


def test_a_clean_label_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert MapLabels(CLASSES, stray="background")(label_of(0, 1, 2)).flatten().tolist() == [0, 1, 2]


def test_strays_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(InputError, match=r"label value 254 \(2 voxels\) is outside the domain \(0, 1, 2, 3\)"):
        MapLabels(CLASSES, merges={3: 1})(label_of(254, 1, 254))


def test_merges_that_swap_do_not_run_into_each_other() -> None:
    assert MapLabels([0, 1, 2], merges={3: 2, 4: 1})(label_of(1, 2, 3, 4)).flatten().tolist() == [1, 2, 2, 1]


@given(
    label=hnp.arrays(
        np.int32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.sampled_from([-1, 0, 1, 2, 3, 9, 255, 10**9])
    )
)
def test_against_a_table_looked_up_voxel_by_voxel(label: np.ndarray) -> None:
    table = {0: 0, 1: 1, 2: 2, 3: 2}
    expected = np.vectorize(lambda v: table.get(int(v), 0))(label)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapped = MapLabels(CLASSES, merges={3: 2}, stray="background")(torch.from_numpy(label)[None])
    np.testing.assert_array_equal(mapped.numpy()[0], expected)


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf"), -0.4])
@pytest.mark.parametrize("stray", ["background", "refuse"])
def test_values_that_are_not_whole_are_always_refused(value: float, stray: str) -> None:
    with pytest.raises(InputError, match="no whole numbers"):
        MapLabels(CLASSES, stray=stray)(label_of(0, 1, value))


def test_rounding_by_the_files_scale_factor_is_mended() -> None:
    assert MapLabels(CLASSES)(label_of(0.9999, 2.0001)).flatten().tolist() == [1, 2]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32])
def test_type_shape_and_geometry_stay(dtype: torch.dtype) -> None:
    affine = torch.diag(torch.tensor([2.0, 3, 4, 1], dtype=torch.float64))
    label = MetaTensor(torch.tensor([[[[0, 2], [1, 2]]]]).to(dtype), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    before = label.clone()
    mapped = MapLabels({"background": 0, "organ": 1}, merges={2: 1})(label)
    assert isinstance(mapped, MetaTensor)
    assert mapped.dtype == dtype
    assert mapped.meta["filename_or_obj"] == "a.nii.gz"
    assert torch.equal(mapped.affine, affine)
    assert mapped.flatten().tolist() == [0, 1, 1, 1]
    assert torch.equal(label.as_tensor(), before.as_tensor()), "the input is not changed"


def test_an_empty_label_passes() -> None:
    assert MapLabels(CLASSES)(torch.zeros((1, 0, 2, 2))).shape == (1, 0, 2, 2)


@pytest.mark.parametrize("options", [{"stray": "ignore"}, {"merges": {3: 5}}])
def test_a_mapping_that_makes_no_sense_is_refused_when_it_is_made(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MapLabels(CLASSES, **options)


def test_the_dictionary_twin_names_the_file(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "case.nii.gz", hippocampus_like((8, 10, 8))[1] * 2)
    mapping = MapLabelsd(keys=["label", "other"], labels=CLASSES, merges={"4": 2}, allow_missing_keys=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = mapping({"label": read_label(path), "case": "x"})
    assert data["case"] == "x"
    assert set(data["label"].unique().tolist()) <= {0, 2}
    with pytest.raises(InputError, match=r"case\.nii\.gz: label value 4"):
        MapLabelsd(keys="label", labels=CLASSES)({"label": read_label(path)})


@pytest.mark.parametrize("case", ["hippocampus_003", "hippocampus_243"])
def test_real_cases_known_for_a_stray_value_come_out_clean(hippocampus_data: Path, bundle: Path, case: str) -> None:
    """The public release of these two has voxels of 254; other copies do not. Painted in, they go, and only they."""
    domain = Domain.from_file(bundle / "configs" / "domain.json")
    mapping = MapLabels(domain.labels, domain.label_merges, domain.stray_labels)
    label = read_label(hippocampus_data / "labelsTr" / f"{case}.nii.gz")
    expected = torch.where(label.as_tensor() <= 2, label.as_tensor(), 0)
    painted = label.clone()
    painted[0, :3, 0, 0] = 254
    expected[0, :3, 0, 0] = 0
    with pytest.warns(UserWarning, match=rf"{case}\.nii\.gz: stray label value 254"):
        mapped = mapping(painted)
    assert torch.equal(mapped.as_tensor(), expected)
    assert set(mapped.unique().tolist()) == {0, 1, 2}
