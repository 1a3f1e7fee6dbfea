"""The server with a real client: every bundle, every geometry, and what it says to what it cannot use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from custom_components.domain import Domain
from tests.label.conftest import HIPPOCAMPUS, ROOT, SINGLE, UNIVERSAL, names_of, phantom, reference, small_copy, small_universal
from tests.label.servers import Server
from tests.phantoms import affine_of, hippocampus_like, save_itk, save_nifti

GRIDS = {
    "plain": affine_of((1.1, 0.9, 1.3)),
    "oblique": affine_of((1.1, 0.9, 1.3), (15, -20, 10), (10, -20, 30)),
    "flipped": affine_of((1.0, 1.2, 0.8), (0, 0, 0), (-5, 6, 7), (0, 1, 2), (-1, -1, 1)),
    "sagittal_oblique": affine_of((1.4, 1.0, 1.0), (3, 8, -30), (1, 2, 3), (2, 0, 1), (-1, 1, -1)),
}


@dataclass
class Served:
    server: Server
    client: Any
    bundles: Path
    studies: Path


@pytest.fixture(scope="module")
def served(start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Served:
    root = tmp_path_factory.mktemp("serving")
    bundles, studies = root / "bundles", root / "studies"
    for name in SINGLE:
        if name == HIPPOCAMPUS:
            shutil.copytree(ROOT / "bundles" / name, bundles / name)
            continue
        bundle = small_copy(name, bundles)
        phantom(Domain.from_file(bundle / "configs" / "domain.json"), studies / f"of_{name}.nii.gz")
    small_universal(bundles)
    shutil.copytree(bundles / HIPPOCAMPUS / "configs", bundles / "without_weights" / "configs")
    shutil.rmtree(bundles / "tried")
    for index, (name, affine) in enumerate(GRIDS.items()):
        image, _ = hippocampus_like((34, 46, 38), seed=index)
        save_nifti(studies / f"{name}.nii.gz", image, affine)
    save_itk(studies / "oblique_nrrd.nrrd", hippocampus_like((34, 46, 38), seed=1)[0], GRIDS["oblique"])
    (studies / "broken.nii.gz").write_bytes(b"this is no image")
    save_nifti(studies / "constant.nii.gz", np.ones((20, 20, 20), np.float32))
    server = start("--studies", studies, "--bundles-dir", bundles, "--state-dir", root / "state")
    return Served(server, server.client(root / "received"), bundles, studies)


def same(file: str, expected: np.ndarray, source: Path) -> None:
    """Voxel for voxel, and on the grid of the image."""
    found = nib.load(file)
    assert len(np.unique(expected)) > 1
    assert np.array_equal(np.asarray(found.dataobj), expected)
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_allclose(found.affine, nib.load(source).affine, atol=1e-6)


def test_info_lists_the_bundles_that_have_weights(served: Served) -> None:
    info = served.client.info()
    assert set(info["models"]) == {*SINGLE, UNIVERSAL, f"{UNIVERSAL}.first", f"{UNIVERSAL}.second"}
    for name in SINGLE:
        assert info["models"][name]["labels"] == names_of(served.bundles / name)
        assert "domain" not in info["models"][name]["config"]
    assert info["models"][UNIVERSAL]["config"]["domain"] == ["first", "second"]
    assert info["models"][f"{UNIVERSAL}.second"]["labels"] == names_of(served.bundles / UNIVERSAL, "second")
    assert set(info["trainers"]) == {*SINGLE, UNIVERSAL}
    assert info["trainers"][UNIVERSAL]["config"]["domain"][:2] == ["first", "second"]
    assert {"liver_ct", "spleen_ct"} <= set(info["trainers"][UNIVERSAL]["config"]["domain"])
    assert set(info["strategies"]) == {"first", "random"}
    text = served.server.text()
    assert "Left out: without_weights: " in text and "no trained weights" in text.replace("\n", " ")
    assert "Warning" not in text.split("Server: ")[0]


@pytest.mark.parametrize("name", [name for name in SINGLE if name != HIPPOCAMPUS])
def test_every_bundle_gives_the_label_of_segment(served: Served, name: str) -> None:
    source = served.studies / f"of_{name}.nii.gz"
    file, said = served.client.infer(name, f"of_{name}", {})
    same(file, reference(served.bundles / name, source), source)
    assert said["label_names"] == names_of(served.bundles / name)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_comes_back_as_it_is(served: Served, grid: str) -> None:
    source = served.studies / f"{grid}.nii.gz"
    expected = reference(served.bundles / HIPPOCAMPUS, source)
    file, said = served.client.infer(HIPPOCAMPUS, grid, {})
    same(file, expected, source)
    assert len(np.unique(expected)) == 3
    voxel = abs(np.linalg.det(nib.load(source).affine[:3, :3]))
    for name, index in names_of(served.bundles / HIPPOCAMPUS).items():
        assert said["volumes_mm3"][name] == pytest.approx((expected == index).sum() * voxel, rel=1e-4)


@pytest.mark.parametrize("image", ["oblique", "oblique_nrrd"])
@pytest.mark.parametrize("extension", [".nrrd", ".nii"])
def test_other_file_types_hold_the_same_label(served: Served, image: str, extension: str) -> None:
    """3D Slicer asks for NRRD; a label of an NRRD is an NRRD unless another is asked for."""
    from custom_components.data import read_image, read_label

    source = next(served.studies.glob(f"{image}.*"))
    expected = reference(served.bundles / HIPPOCAMPUS, source)
    options = {"result_extension": extension, "result_dtype": "uint8"} if extension == ".nii" or image == "oblique" else {}
    file, _ = served.client.infer(HIPPOCAMPUS, image, options)
    assert file.endswith(extension)
    label = read_label(file, read_image(source))
    assert np.array_equal(label.numpy()[0], expected)


@pytest.mark.parametrize("domain", ["first", "second"])
def test_the_selector_and_the_model_of_a_domain_agree(served: Served, domain: str) -> None:
    source = served.studies / "oblique.nii.gz"
    expected = reference(served.bundles / UNIVERSAL, source, domain)
    for model, options in ((UNIVERSAL, {"domain": domain}), (UNIVERSAL, {"domain": [domain]}), (f"{UNIVERSAL}.{domain}", {})):
        file, said = served.client.infer(model, "oblique", options)
        same(file, expected, source)
        assert said["domain"] == domain
        assert said["label_names"] == {f"{domain} front": 1, f"{domain} back": 2}


def test_without_a_choice_the_first_domain_is_used(served: Served) -> None:
    file, said = served.client.infer(UNIVERSAL, "oblique", {})
    assert said["domain"] == "first"
    same(
        file, reference(served.bundles / UNIVERSAL, served.studies / "oblique.nii.gz", "first"), served.studies / "oblique.nii.gz"
    )


def test_an_image_that_is_sent_along(served: Served, tmp_path: Path) -> None:
    """Without the studies folder: as a file, and as a session, which 3D Slicer uses."""
    source = save_nifti(tmp_path / "mine.nii.gz", hippocampus_like((30, 41, 36), seed=9)[0], GRIDS["sagittal_oblique"])
    expected = reference(served.bundles / HIPPOCAMPUS, source)
    file, _ = served.client.infer(HIPPOCAMPUS, "", {}, file=str(source))
    same(file, expected, source)
    session = served.client.create_session(str(source))["session_id"]
    file, _ = served.client.infer(HIPPOCAMPUS, "", {}, session_id=session)
    same(file, expected, source)


def test_requests_at_once_do_not_mix(served: Served) -> None:
    asked = [(HIPPOCAMPUS, "flipped", None), (UNIVERSAL, "flipped", "second"), (HIPPOCAMPUS, "oblique", None)] * 2
    folders = [served.studies.parent / "at_once" / str(index) for index in range(len(asked))]

    def ask(index: int) -> str:
        model, image, domain = asked[index]
        client = served.server.client(folders[index])
        file, _ = client.infer(model, image, {"domain": domain} if domain else {})
        return str(file)

    with ThreadPoolExecutor(len(asked)) as pool:
        files = list(pool.map(ask, range(len(asked))))
    for file, (model, image, domain) in zip(files, asked, strict=True):
        source = served.studies / f"{image}.nii.gz"
        same(file, reference(served.bundles / model, source, domain), source)


@pytest.mark.parametrize(
    ("model", "image", "options", "code", "said"),
    [
        (HIPPOCAMPUS, "broken", {}, 400, "broken.nii.gz: is damaged"),
        (HIPPOCAMPUS, "constant", {}, 400, "constant.nii.gz"),
        (HIPPOCAMPUS, "of_prostate_mri_segmentation", {}, 400, "channel"),
        (HIPPOCAMPUS, "nowhere", {}, 404, "no image of this name"),
        (HIPPOCAMPUS, "plain", {"result_extension": ".png"}, 400, "result_extension '.png'"),
        (UNIVERSAL, "plain", {"domain": "third"}, 400, "has no domain 'third'; it has first, second"),
    ],
)
def test_what_cannot_be_used_is_said_and_the_server_lives_on(
    served: Served, model: str, image: str, options: dict[str, str], code: int, said: str
) -> None:
    from monailabel.client.client import MONAILabelClientException

    with pytest.raises(MONAILabelClientException) as caught:
        served.client.infer(model, image, options)
    assert f"Status: {code}" in caught.value.msg
    detail = json.loads(caught.value.msg.split("Response: ")[1])["detail"]
    assert said in detail and "\n" not in detail
    file, _ = served.client.infer(HIPPOCAMPUS, "plain", {})
    same(file, reference(served.bundles / HIPPOCAMPUS, served.studies / "plain.nii.gz"), served.studies / "plain.nii.gz")


def test_weights_that_no_longer_fit_are_an_error_and_new_ones_are_used(served: Served) -> None:
    """Never a random network: a damaged file, another trunk, and weights that were exchanged while the server runs."""
    from monailabel.client.client import MONAILabelClientException

    name = "spleen_ct_segmentation"
    source = served.studies / f"of_{name}.nii.gz"
    models = served.bundles / name / "models"
    kept = {path: path.read_bytes() for path in models.iterdir()}
    before = reference(served.bundles / name, source)
    other = served.bundles / UNIVERSAL / "models" / "trunk.safetensors"
    for harm in (lambda: (models / "spleen_ct.safetensors").write_bytes(b"damaged"), lambda: shutil.copy(other, models)):
        harm()
        with pytest.raises(MONAILabelClientException) as caught:
            served.client.infer(name, f"of_{name}", {})
        assert "Status: 503" in caught.value.msg and ".safetensors" in caught.value.msg
        for path, content in kept.items():
            path.write_bytes(content)
    file, _ = served.client.infer(name, f"of_{name}", {})
    same(file, before, source)


def test_weights_cannot_be_sent_or_fetched(served: Served, tmp_path: Path) -> None:
    """MONAI Label would overwrite the file that it names as a model's with whatever is sent."""
    import requests

    sent = requests.put(f"{served.server.url}/model/{HIPPOCAMPUS}", files={"file": ("model.pt", b"harm")}, timeout=60)
    assert sent.status_code == 500 and "NOT configured" in sent.text
    assert requests.get(f"{served.server.url}/model/{HIPPOCAMPUS}", timeout=60).status_code == 404
    files = {path.name for path in (served.bundles / HIPPOCAMPUS / "models").iterdir()}
    assert files == {"model.pt", "trunk.safetensors", "hippocampus_mri.safetensors"}


def test_other_web_pages_may_not_call(served: Served) -> None:
    import requests

    own, other = served.server.url, "http://elsewhere.example"
    for origin, allowed in ((own, own), (other, None)):
        answer = requests.get(f"{own}/info/", headers={"Origin": origin}, timeout=60)
        assert answer.headers.get("access-control-allow-origin") == allowed
