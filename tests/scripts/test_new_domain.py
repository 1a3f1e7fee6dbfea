"""The script: from a folder to a bundle whose network runs, and nothing written where a case or an option is bad."""

from __future__ import annotations

import json
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from custom_components.data import read_dataset
from custom_components.data.exploration import describe_case
from custom_components.domain import Domain
from custom_components.networks import U2Net
from custom_components.planning import facts_of
from tests.phantoms import affine_of, decathlon, save_nifti


@pytest.fixture(scope="module")
def script(repository: Path) -> ModuleType:
    spec = util.spec_from_file_location("new_domain", repository / "scripts" / "new_domain.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["new_domain"] = module
    with pytest.MonkeyPatch.context() as patch:  # rich looks at the width when a console is made
        patch.setenv("COLUMNS", "200")
        spec.loader.exec_module(module)
    return module


def run(script: ModuleType, *arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(script.app, [str(a) for a in arguments])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return decathlon(tmp_path / "data", cases=3, shape=(14, 18, 12))


def relabel(root: Path, name: str, at: tuple[int, int, int], value: int) -> None:
    path = root / "labelsTr" / f"{name}.nii.gz"
    stored = nib.load(path)
    label = np.asarray(stored.dataobj).copy()
    label[at] = value
    save_nifti(path, label, stored.affine)


def describe(root: Path, **changes: object) -> None:
    path = root / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def odd(tmp_path: Path) -> Path:
    """Sagittal and oblique, 5 mm along the stored first axis, with a label of few voxels and a zero border."""
    root = decathlon(tmp_path / "odd", cases=3, shape=(14, 40, 36))
    affine = affine_of(spacing=(5, 0.9, 1.1), angles=(4, -6, 8), axes=(0, 1, 2), flips=(-1, 1, -1), origin=(3, -70, 9))
    for name in (f"phantom_{i:03d}" for i in range(3)):
        image = nib.load(root / "imagesTr" / f"{name}.nii.gz").get_fdata(dtype=np.float32)
        label = np.asarray(nib.load(root / "labelsTr" / f"{name}.nii.gz").dataobj).copy()
        image[:, :10] = 0
        label[7, 20:23, 20] = 3
        save_nifti(root / "imagesTr" / f"{name}.nii.gz", image, affine)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", label, affine)
    describe(root, labels={"0": "background", "1": "Anterior", "2": "Posterior", "3": "Lesion"})
    return root


def test_an_odd_data_set_becomes_a_bundle_whose_network_runs(script: ModuleType, tmp_path: Path) -> None:
    root, bundle = odd(tmp_path), tmp_path / "out" / "odd_mri_segmentation"
    result = run(script, root, "--name", "odd_mri", "--output-dir", bundle, "--patch-voxels", 16384)
    assert result.exit_code == 0, result.output
    domain = Domain.from_file(bundle / "configs" / "domain.json")
    assert domain.spacing == (1.1, 0.9, 5.0), "stored x, y, z are 5, 0.9, 1.1 mm, and z, y, x is asked for"
    assert domain.labels == {"background": 0, "anterior": 1, "posterior": 2, "lesion": 3}
    assert domain.kernel_sizes[0] == (3, 3, 1)
    assert domain.strides[0] == (2, 2, 1)
    assert domain.sampling.smallest_class == 0.5, "three voxels are rare"
    assert domain.augmentation.rotation.angles[2][1] > domain.augmentation.rotation.angles[0][1], "x is through the slices"
    network = U2Net({domain.name: domain.network}, channels=[4] * (len(domain.strides) + 1)).eval()
    with torch.no_grad():
        logits = network(torch.zeros(1, 1, *domain.patch_size))
    assert logits.shape == (1, 4, *domain.patch_size)
    assert torch.isfinite(logits).all()
    plan = (bundle / "docs" / "plan.md").read_text()
    assert "Lesion (3) has" in plan
    assert "3 cases: five folds need 5" in plan
    assert (bundle / "docs" / "dataset.png").read_bytes()[:4] == b"\x89PNG"
    assert (bundle / "configs" / "train.json").is_file()
    assert f"--config_file {bundle}/configs/train.json" in result.output
    assert [p.name for p in bundle.parent.iterdir()] == [bundle.name], "no temporary folder is left"


def test_the_facts_are_in_z_y_x_order(tmp_path: Path) -> None:
    dataset = read_dataset(odd(tmp_path))
    report = describe_case(dataset.cases[0], dataset)
    (case,) = facts_of(dataset, [report], {}).cases
    stored = nib.load(dataset.cases[0]["image"])
    turned = stored.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(stored.affine), nib.orientations.axcodes2ornt("SAR"))
    )
    assert case.shape == turned.shape
    np.testing.assert_allclose(case.spacing, nib.affines.voxel_sizes(turned.affine), rtol=1e-5)
    assert [b - a + 1 for a, b in case.box] == [n - 10 * (axis == 1) for axis, n in enumerate(turned.shape)]
    image, (z, y, x) = stored.get_fdata(dtype=np.float32), case.cropped(2)
    assert (z, y, x) == (turned.shape[0], turned.shape[1] - 8, turned.shape[2])
    np.testing.assert_allclose(case.channels[0].percentiles[50.0], np.median(image[:, 10:]), rtol=1e-6)
    assert case.labels[3].voxels == 3
    assert case.foreground == np.count_nonzero(np.asarray(nib.load(dataset.cases[0]["label"]).dataobj))


def test_merged_labels_are_measured_as_one(tmp_path: Path) -> None:
    dataset = read_dataset(decathlon(tmp_path, cases=1, shape=(16, 20, 14)))
    label = np.asarray(nib.load(dataset.cases[0]["label"]).dataobj)
    facts = facts_of(dataset, [describe_case(dataset.cases[0], dataset, {2: 1})], {2: 1})
    assert set(facts.labels) == {0, 1}
    assert facts.cases[0].labels[1].voxels == np.count_nonzero(label)
    assert facts.cases[0].labels[1].components == 1, "the two touch"
    assert set(facts.cases[0].labels) == {1}


def test_a_dry_run_writes_nothing(script: ModuleType, data: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "out" / "blob_mri_segmentation"
    result = run(script, data, "--name", "blob_mri", "--output-dir", bundle, "--dry-run", "--set", "sampling.batch_size=3")
    assert result.exit_code == 0, result.output
    for words in ("patch_size", "median image at this spacing", "set by --set", "adapter", "Nothing written"):
        assert words in result.output
    assert not bundle.parent.exists()


def test_a_dry_run_may_plan_what_is_there_already(
    script: ModuleType, data: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    result = run(script, data, "--name", "hippocampus_mri", "--dry-run")
    assert result.exit_code == 0, result.output


def test_help_teaches(script: ModuleType) -> None:
    result = run(script, "--help")
    assert result.exit_code == 0
    for words in ("Task06_Lung --name lung_ct", "--merge 2:1", "--set spacing=[1,1,1]", "--patch-voxels"):
        assert words in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--name", "Lung CT"], "--name Lung CT: lower-case"),
        (["--name", "type"], "torch keeps this word"),
        (["--name", "trunk"], "--name trunk: 'trunk' is another file's in a bundle's models folder"),
        (["--name", "model"], "--name model: 'model' is another file's in a bundle's models folder"),
        (["--name", "hippocampus_mri"], "is a bundle of that domain already"),
        (["--name", "a_mri", "--set", "spacing"], "FIELD=VALUE"),
        (["--name", "a_mri", "--set", "spacing=[1,2]"], "--set spacing"),
        (["--name", "a_mri", "--set", "patch_size=[4,4,4]"], "no axis has the 8 voxels that a halving needs"),
        (["--name", "a_mri", "--set", 'channels=["T1","T2"]'], "correct 'channels' of the description"),
        (["--name", "a_mri", "--merge", "2"], "FROM:INTO"),
        (["--name", "a_mri", "--merge", "2:9"], "names no label 9"),
    ],
)
def test_a_wrong_option_is_one_error(
    script: ModuleType,
    data: Path,
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(repository)
    target = tmp_path / "out" / "x"
    result = run(script, data, *options, "--output-dir", target)
    assert result.exit_code == 1
    assert says in result.output
    assert result.output.count("Error:") == 1
    assert not target.parent.exists()


def test_a_folder_that_exists_is_left_alone(script: ModuleType, data: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    result = run(script, data, "--name", "a_mri", "--output-dir", target)
    assert result.exit_code == 1
    assert "exists already" in result.output
    assert list(target.iterdir()) == []


def spoil_image(root: Path) -> None:
    (root / "imagesTr" / "phantom_001.nii.gz").write_bytes(b"no image")


def spoil_channels(root: Path) -> None:
    describe(root, modality={"0": "MRI", "1": "MRI"})


def spoil_flat(root: Path) -> None:
    save_nifti(root / "imagesTr" / "phantom_001.nii.gz", np.full((15, 17, 12), 7, np.float32))


def spoil_slice(root: Path) -> None:
    save_nifti(root / "imagesTr" / "phantom_001.nii.gz", np.random.default_rng(0).random((15, 17, 1), np.float32))


def spoil_values(root: Path) -> None:
    relabel(root, "phantom_001", (0, 0, 0), 9)


def spoil_labels(root: Path) -> None:
    for path in (root / "labelsTr").iterdir():
        save_nifti(path, np.zeros(nib.load(path).shape, np.uint8))


def spoil_modality(root: Path) -> None:
    describe(root, modality={"0": "ultrasound"})


def spoil_names(root: Path) -> None:
    describe(root, labels={})


def spoil_nnunet_names(root: Path) -> None:
    describe(root, labels={"background": 0, "organ": 1})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_image, "phantom_001.nii.gz"),
        (spoil_channels, "has 1 channel, 2 are needed"),
        (spoil_flat, "it is constant"),
        (spoil_slice, "is 2-D"),
        (spoil_values, "label value 9 (in 1 of 3 cases: phantom_001)"),
        (spoil_labels, "nothing to learn"),
        (spoil_modality, "--modality"),
        (spoil_names, "names no label"),
        (spoil_nnunet_names, "must map numbers to names"),
    ],
)
def test_bad_data_is_named_and_nothing_written(script: ModuleType, data: Path, tmp_path: Path, spoil, says: str) -> None:
    spoil(data)
    target = tmp_path / "out" / "x"
    result = run(script, data, "--name", "a_mri", "--output-dir", target)
    assert result.exit_code == 1, result.output
    assert says in result.output
    assert "Traceback" not in result.output
    assert not target.parent.exists()


def test_stray_values_pass_where_asked(script: ModuleType, data: Path, tmp_path: Path) -> None:
    spoil_values(data)
    target = tmp_path / "x_segmentation"
    result = run(script, data, "--name", "a_mri", "--output-dir", target, "--stray", "background", "--no-picture")
    assert result.exit_code == 0, result.output
    assert Domain.from_file(target / "configs" / "domain.json").stray_labels == "background"
    assert not (target / "docs" / "dataset.png").exists()
    assert "dataset.png" not in result.output


@pytest.mark.parametrize(
    ("task", "name", "spacing", "first"),
    [
        ("Task23_CardiacMR", "cardiac_mri", (10.0, 1.5, 1.5), (1, 2, 2)),
        ("Task21_AbdomenMR", "abdomen_mri", (7.7, 1.25, 1.25), (1, 2, 2)),
        ("Task22_HeadNeckCT", "headneck_ct", (2.5, 3.92, 3.92), (2, 2, 2)),
    ],
)
def test_a_plan_of_real_data(
    script: ModuleType,
    real_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    name: str,
    spacing: tuple[float, ...],
    first: tuple[int, ...],
) -> None:
    folder = real_data / task
    if not (folder / "dataset.json").is_file():
        pytest.skip(f"no {folder}")
    monkeypatch.chdir(tmp_path)  # the repository may have a bundle of that domain
    target = tmp_path / f"{name}_segmentation"
    # A few cases do: a copy of dataset.json that lists them by their full paths.
    described = json.loads((folder / "dataset.json").read_text())
    few = [{key: str(folder / entry[key]) for key in ("image", "label")} for entry in described["training"][:4]]
    (tmp_path / task).mkdir()
    (tmp_path / task / "dataset.json").write_text(json.dumps({**described, "training": few}))
    result = run(script, tmp_path / task, "--name", name, "--output-dir", target, "--patch-voxels", 262144, "--no-picture")
    assert result.exit_code == 0, result.output
    domain = Domain.from_file(target / "configs" / "domain.json")
    assert domain.spacing == pytest.approx(spacing, rel=0.15)
    assert domain.strides[0] == first
    assert domain.augmentation.mirror.axes == (), "its labels have sides"
    assert len(domain.classes) == len(described["labels"]) - 1
