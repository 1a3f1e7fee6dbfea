"""The proof is green where nothing changed for those who were there, and red at a single bit."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from custom_components.errors import InputError
from custom_components.networks import fingerprint
from custom_components.weights import load_network, network_on_trunk, save_bundle_weights
from custom_components.weights.bundle_changes import import_adapter, remove_adapter
from custom_components.weights.files import read_header, write_tensors
from custom_components.weights.model_file import read_model_file
from custom_components.weights.proof import prove_unchanged
from tests.phantoms import save_nifti
from tests.weights.bundles import bundle_of, domain

ROOT = Path(__file__).parents[2]
HEART = domain("heart_mri", labels={"background": 0, "class1": 1}, postprocessing={"class1": {"closing": 0, "keep": 1}})
LIVER, KNEE = domain("liver_ct", 2, 3), domain("knee_mri", 1, 3)


@pytest.fixture
def states(tmp_path: Path) -> tuple[Path, Path]:
    before = bundle_of(tmp_path / "before", HEART, LIVER)
    return before, Path(shutil.copytree(before, tmp_path / "after"))


def trained_adapter(trunk: Path, folder: Path) -> Path:
    """A knee adapter after a few real steps with the trunk frozen, and weight decay on everything that is given."""
    torch.manual_seed(4)
    network = network_on_trunk(trunk, KNEE)
    start = fingerprint(network.adapter_state())
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    x, y = torch.randn(2, 1, 4, 8, 8), torch.randint(3, (2, 4, 8, 8))
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = cross_entropy(network(x)[0], y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and fingerprint(network.adapter_state()) != start
    save_bundle_weights(network, folder, {KNEE.name: {"description": KNEE, "training": {"steps": 4}}})
    return folder / "knee_mri.safetensors"


def test_green_after_training_and_importing_an_adapter(states: tuple[Path, Path], tmp_path: Path) -> None:
    before, after = states
    import_adapter(trained_adapter(after / "models" / "trunk.safetensors", tmp_path / "knee"), after)
    proof = prove_unchanged(before, after)
    assert (proof["verdict"], proof["differences"], proof["added"]) == ("unchanged", [], ["knee_mri"])
    assert proof["trunk"]["before"] == proof["trunk"]["after"] == load_network(before / "models").trunk_fingerprint()
    for name in ("heart_mri", "liver_ct"):
        outputs = proof["domains"][name]["outputs"]
        assert [sorted(o.keys() - {"input"}) for o in outputs] == [["logits_after", "logits_before"]] * 2 + [
            ["label_after", "label_before", "logits_after", "logits_before"]
        ]
        assert len({o["logits_before"] for o in outputs}) == 3, "different inputs have different outputs"


def test_the_hashes_are_of_the_outputs(states: tuple[Path, Path]) -> None:
    before, after = states
    proof = prove_unchanged(before, after)
    x = torch.randn((1, 1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = load_network(before / "models", HEART)(x)
    assert proof["domains"]["heart_mri"]["outputs"][0]["logits_after"] == fingerprint({"logits": logits})


def test_green_after_adding_a_domain(states: tuple[Path, Path], tmp_path: Path) -> None:
    """A copy of the models folder is enough: the descriptions are the bundle's."""
    before, after = shutil.copytree(states[0] / "models", tmp_path / "copy" / "of_models"), states[1]
    network = load_network(after / "models")
    network.add_domain(KNEE.name, KNEE.network)
    save_bundle_weights(network, after / "models")
    proof = prove_unchanged(before, after)
    assert (proof["verdict"], proof["added"]) == ("unchanged", ["knee_mri"])
    assert all("no description before; that of the state after" in note for note in proof["notes"]) and len(proof["notes"]) == 2
    assert all(len(domain["outputs"]) == 3 for domain in proof["domains"].values())

    # Without any description: patches of four times the strides' product.
    alone = shutil.copytree(after / "models", tmp_path / "alone" / "models_after")
    proof = prove_unchanged(before, alone)
    assert proof["verdict"] == "unchanged" and "no segmentation" in proof["notes"][0]
    assert [output["input"][:20] for output in proof["domains"]["heart_mri"]["outputs"]] == ["random patch 8×16×16"] * 2


def flip(path: Path, key: str, mend: bool) -> None:
    """Change the lowest bit of one value; ``mend`` writes a header that fits it, as a program that saves would."""
    tensors, header = load_file(path), read_header(path)
    assert header is not None
    tensors[key].view(torch.int32).view(-1)[0] ^= 1
    write_tensors(path, tensors, {**header, "sha256": fingerprint(tensors)} if mend else header)


def other_trunk(after: Path) -> None:
    """One bit of the trunk, and everything saved anew, as training without freezing would."""
    network = load_network(after / "models")
    with torch.no_grad():
        network.trunk["down"][0].weight.view(torch.int32).view(-1)[0] ^= 1
    save_bundle_weights(network, after / "models")


def spacing(after: Path) -> None:
    path = after / "configs" / "domains" / "heart_mri.json"
    path.write_text(HEART.model_copy(update={"spacing": (1.0, 1.0, 1.5)}).to_json())


def other_model(after: Path) -> None:
    """One bit of ``model.pt`` alone."""
    path = after / "models" / "model.pt"
    state = read_model_file(path)
    state[BIAS].view(torch.int32).view(-1)[0] ^= 1
    write_tensors(path, state)


def older_model(after: Path) -> None:
    """An adapter that is beside it is not in it, as after an import that was stopped."""
    path = after / "models" / "model.pt"
    write_tensors(path, {key: value for key, value in read_model_file(path).items() if "liver_ct" not in key})


def damaged_model(after: Path) -> None:
    path = after / "models" / "model.pt"
    path.write_bytes(path.read_bytes()[:-100])


BIAS = "domains.heart_mri.encoder.0.first.norm.bias"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_trunk, ["trunk: tensors 1 changed (trunk.down.0.weight)", "heart_mri, random patch 4×8×8, seed 0: logits differ"]),
        (
            lambda after: flip(after / "models" / "trunk.safetensors", "trunk.up.0.weight", False),
            ["trunk: tensors 1 changed (trunk.up.0.weight)", "cannot be loaded"],
        ),
        (
            lambda after: flip(after / "models" / "trunk.safetensors", "trunk.up.0.weight", True),
            ["trunk: tensors 1 changed", "cannot be loaded"],
        ),
        (
            lambda after: flip(after / "models" / "heart_mri.safetensors", BIAS, True),
            [f"adapter of heart_mri: tensors 1 changed ({BIAS})"],
        ),
        (
            lambda after: flip(after / "models" / "heart_mri.safetensors", BIAS, False),
            [f"adapter of heart_mri: tensors 1 changed ({BIAS})", "the file was changed"],
        ),
        (lambda after: remove_adapter(after, "liver_ct"), ["domain liver_ct: is missing"]),
        (spacing, ["description of heart_mri: spacing differ"]),
        (other_model, [f"model.pt, against trunk and adapters: tensors 1 changed ({BIAS})"]),
        (older_model, ["model.pt, against trunk and adapters: tensors", "missing (domains.liver_ct."]),
        (damaged_model, ["model.pt: "]),
    ],
    ids=[
        "trunk trained",
        "trunk bit",
        "trunk bit, header mended",
        "adapter bit",
        "adapter bit, header old",
        "missing",
        "spacing",
        "model.pt bit",
        "model.pt old",
        "model.pt damaged",
    ],
)
def test_red(states: tuple[Path, Path], change: Callable[[Path], Any], expected: list[str]) -> None:
    before, after = states
    change(after)
    proof = prove_unchanged(before, after)
    assert proof["verdict"] == "changed"
    for text in expected:
        assert any(text in line for line in proof["differences"]), proof["differences"]


def test_a_domain_that_was_meant_to_change_is_left_out(states: tuple[Path, Path]) -> None:
    before, after = states
    flip(after / "models" / "heart_mri.safetensors", BIAS, True)
    write_tensors(after / "models" / "model.pt", load_network(after / "models").state_dict())
    assert prove_unchanged(before, after, trained=["heart_mri"])["verdict"] == "unchanged"
    with pytest.raises(InputError, match="has no domain hart_mri"):
        prove_unchanged(before, after, trained=["hart_mri"])


def test_what_training_alone_reads_is_noted(states: tuple[Path, Path]) -> None:
    before, after = states
    path = after / "configs" / "domains" / "heart_mri.json"
    path.write_text(HEART.model_copy(update={"organ": "atrium"}).to_json())
    proof = prove_unchanged(before, after)
    assert proof["verdict"] == "unchanged"
    assert proof["notes"] == ["description of heart_mri: organ differ, which segmenting does not read"]


def test_given_images(states: tuple[Path, Path], tmp_path: Path) -> None:
    before, after = states
    volume = torch.randn((10, 9, 7), generator=torch.Generator().manual_seed(1)).numpy() * 100 + 500
    save_nifti(tmp_path / "images" / "heart_mri" / "a.nii.gz", volume)
    save_nifti(tmp_path / "images" / "b.nii.gz", volume + 1)
    outputs = prove_unchanged(before, after, tmp_path / "images")["domains"]
    assert [Path(o["input"]).name for o in outputs["heart_mri"]["outputs"][2:]] == ["a.nii.gz"]
    # The liver takes two channels, the image has one: a generated volume takes its place.
    assert [o["input"][:13] for o in outputs["liver_ct"]["outputs"][2:]] == ["random volume"]
    with pytest.raises(InputError, match="no such folder"):
        prove_unchanged(before, after, tmp_path / "none")
    (tmp_path / "images" / "b.nii.gz").unlink()
    notes = prove_unchanged(before, after, tmp_path / "images")["notes"]
    assert notes == [f"liver_ct: has no image in {tmp_path / 'images'}; a random volume was compared"]
    (tmp_path / "images" / "heart_mri").rename(tmp_path / "images" / "heart")
    with pytest.raises(InputError, match=r"heart: is named like no domain of .*, which has heart_mri, liver_ct"):
        prove_unchanged(before, after, tmp_path / "images")


def test_one_folder_for_both_proves_nothing(states: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(states[1])
    for same in (states[1], states[1] / "models", tmp_path / "link"):
        with pytest.raises(InputError, match="are one folder; give a copy"):
            prove_unchanged(same, states[1])
    (states[1] / "models" / "model.pt").unlink()  # trunk and adapters are what counts
    proof = prove_unchanged(*states)
    assert proof["verdict"] == "unchanged"
    assert proof["notes"] == ["model.pt: was there before and is missing; MONAI's own tools would need it"]


def test_no_bundle(states: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no trunk\.safetensors"):
        prove_unchanged(tmp_path, states[1])
    flip(states[0] / "models" / "heart_mri.safetensors", BIAS, False)
    with pytest.raises(InputError, match="the file was changed"):
        prove_unchanged(*states)


def test_the_command(states: tuple[Path, Path], tmp_path: Path) -> None:
    before, after = states

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "prove_unchanged.py"), str(before), str(after)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        options = ["--output-file", str(tmp_path / "proof.json")]
        return subprocess.run([*command, *options, *more], capture_output=True, text=True, env=environment, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    assert "Unchanged, to the bit: trunk, heart_mri, liver_ct (6 outputs compared)" in done.stdout
    proof = json.loads((tmp_path / "proof.json").read_text())
    assert proof["verdict"] == "unchanged" and proof["command"][1] == "scripts/prove_unchanged.py"
    assert {"date", "commit", "cpu", "torch"} <= proof["made"].keys()
    done = run("--trained", "heart_mri", "--trained", "liver_ct")
    assert done.returncode == 0 and "the trunk; every domain was left out (--trained), and no output was compared" in done.stdout
    flip(after / "models" / "liver_ct.safetensors", "domains.liver_ct.output.bias", True)
    done = run()
    assert done.returncode == 1 and "CHANGED" in done.stderr and "adapter of liver_ct: tensors 1 changed" in done.stderr
    assert json.loads((tmp_path / "proof.json").read_text())["verdict"] == "changed"
