"""Exported files give the network's numbers, say what they are, and are refused where they would not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.exports import export_network, load_exported
from custom_components.exports import writing as writing_module
from custom_components.exports.reading import onnx_packages
from custom_components.inference import Segmenter
from custom_components.networks import U2Net
from custom_components.weights import load_network
from docs.examples.segment_exported import segment as example
from scripts.export_domain import app
from tests.phantoms import hippocampus_like, save_nifti
from tests.weights.bundles import bundle_of, domain, randomised

ISOTROPIC: dict[str, Any] = {"patch_size": [8, 8, 8], "strides": [[2, 2, 2]] * 2, "kernel_sizes": [[3, 3, 3]] * 3}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "separable": ({}, {"adapter": "separable", "downsampling": "separable", "deep_supervision": "heads"}),
    "dense downsampling, maps added": (ISOTROPIC, {"adapter": "separable", "downsampling": "dense", "deep_supervision": "sum"}),
    "series": (ISOTROPIC, {"adapter": "series", "downsampling": "dense", "deep_supervision": "none"}),
    "parallel": (ISOTROPIC, {"adapter": "parallel", "downsampling": "dense", "deep_supervision": "sum"}),
    "none": (ISOTROPIC, {"adapter": "none", "downsampling": "dense", "deep_supervision": "sum"}),
}
ONNX_TOO = ("separable", "parallel")  # their operators are those of the others, and an export takes seconds


def network_of(kind: str) -> tuple[U2Net, Domain]:
    """A network of two domains, of which the second has two channels and three classes."""
    shape, plan = KINDS[kind]
    domains = [domain("alpha_mri", **shape), domain("beta_ct", channels=2, classes=3, **shape)]
    torch.manual_seed(0)
    network = randomised(U2Net({d.name: d.network for d in domains}, channels=(4, 6, 8), **plan))
    return network, domains[1]


def run_without_this_project(path: Path, image: torch.Tensor) -> torch.Tensor:
    if path.suffix == ".ts":
        with torch.no_grad():
            return torch.jit.load(path)(image)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


CASES = [(kind, ".ts") for kind in KINDS] + [(kind, ".onnx") for kind in ONNX_TOO]


@pytest.mark.parametrize(("kind", "suffix"), CASES, ids=lambda p: p)
def test_the_file_computes_what_the_network_does_for_any_size(kind: str, suffix: str, tmp_path: Path) -> None:
    network, described = network_of(kind)
    network.train()  # an export is of the network as it segments
    found = export_network(network, described, tmp_path / f"beta{suffix}")
    assert found[0].shape == (1, 2, *described.patch_size)
    assert all(0 <= f.relative <= 1e-3 and f.largest > 0.1 for f in found)
    network.eval()
    for shape in ((1, 2, 8, 8, 12), (3, 2, 4, 16, 8), (2, 2, 12, 4, 8)):  # none of them those that the script checks
        image = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
        with torch.no_grad():
            expected = network.double()(image.double(), "beta_ct")
        network.float()
        given = run_without_this_project(tmp_path / f"beta{suffix}", image)
        assert given.shape == expected.shape
        assert float((given - expected).abs().max() / expected.abs().max()) <= 1e-3


@pytest.mark.parametrize("suffix", [".ts", ".onnx"])
def test_the_file_says_what_it_is_and_nothing_of_the_machine(suffix: str, tmp_path: Path) -> None:
    network, described = network_of("separable")
    paths = [tmp_path / "one" / f"beta{suffix}", tmp_path / "two" / f"again{suffix}"]
    for path in paths:
        export_network(network, described, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    content = paths[0].read_bytes()
    for place in (str(Path(__file__).parents[2]), str(tmp_path)):
        assert place.encode() not in content
    if suffix == ".ts":
        entries: dict[str, Any] = {"domain.json": "", "export.json": ""}
        torch.jit.load(paths[0], _extra_files=entries)
    else:
        onnx = pytest.importorskip("onnx")
        model = onnx.load(paths[0])
        entries = {prop.key: prop.value for prop in model.metadata_props}
        assert {opset.domain for opset in model.opset_import} == {""}
    assert Domain.from_dict(json.loads(entries["domain.json"])) == described
    said = json.loads(entries["export.json"])
    assert b"alpha_mri" not in content
    assert said["trunk"] == network.trunk_fingerprint()
    assert said["divisible_by"] == [2, 4, 4]
    assert said["versions"]["torch"] == torch.__version__.split("+")[0] or said["versions"]["torch"] == torch.__version__
    loaded = load_exported(paths[0])
    assert loaded.domain == described and loaded.description.domain == "beta_ct"


@pytest.fixture(scope="module")
def exported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped hippocampus network by the script, in both formats."""
    folder = tmp_path_factory.mktemp("exported")
    paths = {suffix: folder / f"hippocampus{suffix}" for suffix in (".ts", ".onnx")}
    for path in paths.values():
        result = CliRunner().invoke(app, [str(bundle), "--output", str(path)])
        assert result.exit_code == 0, result.output
        assert "another class on 0 of" in result.output
    return paths


@pytest.mark.parametrize("suffix", [".ts", ".onnx"])
def test_the_example_gives_segment_pys_label(suffix: str, exported: dict[str, Path], bundle: Path, tmp_path: Path) -> None:
    image, _ = hippocampus_like((50, 61, 44), seed=3)
    affine = np.diag([-1.1, 0.9, 1.2, 1.0])
    source = save_nifti(tmp_path / "image.nii.gz", image, affine)
    example(str(exported[suffix]), str(source), str(tmp_path / "label.nii.gz"))
    label = nib.load(tmp_path / "label.nii.gz")
    np.testing.assert_allclose(label.affine, affine, atol=1e-6)
    found, expected = np.asarray(label.dataobj), Segmenter.from_bundle(bundle, "cpu").segment(source).label[0].numpy()
    assert found.shape == image.shape
    assert (expected > 0).sum() > 500
    assert (found != expected).sum() <= 2  # ties


def test_a_domain_of_a_bundle_of_many(tmp_path: Path) -> None:
    folder = bundle_of(tmp_path / "many", domain("alpha_mri"), domain("beta_ct", channels=2, classes=3))
    path = tmp_path / "beta.ts"
    result = CliRunner().invoke(app, [str(folder), "--output", str(path)])
    assert result.exit_code == 1 and "--domain" in result.output
    result = CliRunner().invoke(app, [str(folder), "--domain", "beta_ct", "--output", str(path)])
    assert result.exit_code == 0, result.output
    image = torch.randn(1, 2, 4, 8, 8)
    with torch.no_grad():
        expected = load_network(folder / "models")(image, "beta_ct")
    assert torch.allclose(run_without_this_project(path, image), expected, atol=1e-4)
    before = path.read_bytes()
    result = CliRunner().invoke(app, [str(folder), "--domain", "alpha_mri", "--output", str(path)])
    assert result.exit_code == 1 and "--overwrite" in result.output and path.read_bytes() == before
    result = CliRunner().invoke(app, [str(folder), "--domain", "alpha_mri", "--output", str(path), "--overwrite"])
    assert result.exit_code == 0 and path.read_bytes() != before


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, described = network_of("separable")
    path = tmp_path / "beta.ts"
    path.write_bytes(b"the old one")
    write = writing_module.WRITERS["torchscript"]

    def wrong(module: torch.nn.Module, *rest: Any) -> bytes:
        changed = network_of("separable")[0]
        with torch.no_grad():
            next(changed.trunk.parameters())[0] += 0.1  # of one filter
        return write(changed.select("beta_ct").eval(), *rest)

    monkeypatch.setitem(writing_module.WRITERS, "torchscript", wrong)
    with pytest.raises(InputError, match=r"beta\.ts: differs from the network by .* Not written"):
        export_network(network, described, path)
    assert path.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["beta.ts"]


def test_the_tolerance_counts(tmp_path: Path) -> None:
    network, described = network_of("separable")
    with pytest.raises(InputError, match="1e-12 is allowed"):
        export_network(network, described, tmp_path / "beta.ts", tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".ts", ".onnx"])
@pytest.mark.parametrize("damage", ["cut", "other", "none"])
def test_a_damaged_file_is_named(suffix: str, damage: str, exported: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / f"damaged{suffix}"
    content = exported[suffix].read_bytes()
    if damage != "none":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"text" * 100)
    with pytest.raises(InputError, match=f"damaged\\{suffix}"):
        load_exported(path)


def test_torchscript_of_somebody_else_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "other.ts")
    with pytest.raises(InputError, match=r"other\.ts: has no entry domain\.json"):
        load_exported(tmp_path / "other.ts")


def test_bad_arguments_are_named_and_nothing_is_written(repository: Path, bundle: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ([str(bundle), "--output", str(tmp_path / "a.h5")], ".ts or .onnx"),
        ([str(repository / "bundles" / "liver_ct_segmentation"), "--output", str(tmp_path / "a.ts")], "no trained weights"),
        ([str(tmp_path / "none"), "--output", str(tmp_path / "a.ts")], "is no folder"),
        ([str(bundle), "--domain", "liver_ct", "--output", str(tmp_path / "a.ts")], "has no domain 'liver_ct'"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1 and words in " ".join(result.output.split()), result.output
        assert len(result.output.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("absent", ["onnx", "onnxruntime"])
def test_packages_that_are_missing_are_named_as_a_registry_has_them(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This project's name is not ours there: whoever takes it could have anybody install anything."""
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(InputError, match=f"{absent} is missing; pip install onnx onnxruntime onnxscript$"):
        onnx_packages()
