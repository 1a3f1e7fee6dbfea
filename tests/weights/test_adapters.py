"""A network taken apart into trunk and adapters and put together again is the same to the bit; foreign parts are refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from custom_components.domain import Domain
from custom_components.networks import U2Net, fingerprint
from custom_components.weights import WeightsError, load_network, load_state, save_bundle_weights

DOMAIN = Domain.from_file(Path(__file__).parents[2] / "bundles" / "hippocampus_mri_segmentation" / "configs" / "domain.json")
TINY = {"in_channels": 2, "out_channels": 2, "strides": [[1, 2, 2]], "kernel_sizes": [[1, 3, 3], [3, 3, 3]]}


def network(**arguments: Any) -> U2Net:
    domains = {DOMAIN.name: DOMAIN.network, "knee_mri": TINY}
    return U2Net(domains, channels=(2,) * len(DOMAIN.kernel_sizes), deep_supervision="heads", **arguments).eval()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_bundle_weights(network(), tmp_path)
    return tmp_path


def rewrite(path: Path, header: dict[str, Any] | None = None, **tensors: torch.Tensor) -> None:
    """Change header fields or tensors of a file, as an editor would."""
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["u2net"])
    save_file({**load_file(path), **tensors}, path, {"u2net": json.dumps({**values, **(header or {})})})


def test_parts_make_the_same_network(tmp_path: Path) -> None:
    whole = network()
    files = save_bundle_weights(whole, tmp_path / "models")
    assert [f.name for f in files] == ["trunk.safetensors", f"{DOMAIN.name}.safetensors", "knee_mri.safetensors", "model.pt"]

    again = load_network(tmp_path / "models")
    # Adapters are found by name, so the order of the domains may differ.
    assert again.config["domains"] == whole.config["domains"]
    assert {**again.config, "domains": None} == {**whole.config, "domains": None}
    assert fingerprint(again.state_dict()) == fingerprint(whole.state_dict())
    assert not again.training and all(p.requires_grad and p.device.type == "cpu" for p in again.parameters())
    assert fingerprint(load_state(network(), tmp_path / "models" / "model.pt").state_dict()) == fingerprint(whole.state_dict())


def test_one_domain_alone_gives_its_outputs(models: Path) -> None:
    x = torch.randn(1, 1, 8, 8, 8)
    one = load_network(models, DOMAIN)
    assert list(one.domains) == [DOMAIN.name]
    with torch.inference_mode():
        assert torch.equal(one(x), load_network(models)(x, DOMAIN.name))


@pytest.mark.parametrize(("adapter", "downsampling"), [("series", "dense"), ("parallel", "separable"), ("none", "dense")])
def test_dense_trunks_with_a_shallower_domain(tmp_path: Path, adapter: str, downsampling: str) -> None:
    cube = {"in_channels": 1, "out_channels": 2, "strides": [[2, 2, 2]] * 2, "kernel_sizes": [[3, 3, 3]] * 3}
    shallow = {"in_channels": 1, "out_channels": 3, "strides": [[2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2}
    whole = U2Net({"deep": cube, "shallow": shallow}, channels=(2, 3, 4), adapter=adapter, downsampling=downsampling)
    save_bundle_weights(whole, tmp_path)
    assert fingerprint(load_network(tmp_path).state_dict()) == fingerprint(whole.state_dict())


def test_a_domain_is_added_to_a_folder_without_touching_the_others(models: Path) -> None:
    grown = load_network(models)
    before = {p.name: p.read_bytes() for p in models.glob("*.safetensors")}
    grown.add_domain("wrist_mri", TINY)
    save_bundle_weights(grown, models)
    assert all((models / name).read_bytes() == data for name, data in before.items())
    assert set(load_network(models).domains) == {DOMAIN.name, "knee_mri", "wrist_mri"}


def test_another_trunk_is_refused_and_both_are_named(models: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    stranger = network()
    save_bundle_weights(stranger, other)
    ours = load_network(models).trunk_fingerprint()
    (other / "knee_mri.safetensors").replace(models / "knee_mri.safetensors")
    with pytest.raises(WeightsError, match=f"trunk {stranger.trunk_fingerprint()}, but this trunk is {ours}"):
        load_network(models)
    assert load_network(models, DOMAIN) is not None, "the other domain is not concerned"


@pytest.mark.parametrize(
    ("file", "header", "tensors", "message"),
    [
        ("trunk", {"kind": "adapter"}, {}, "is no trunk file"),
        ("trunk", {"format": 2}, {}, "update the package"),
        ("trunk", {"extra": 1}, {}, "header field extra"),
        ("knee_mri", {"shape": {**TINY, "strides": [[1, 2, 2**40]]}}, {}, "header field shape.strides"),
        ("knee_mri", {"shape": {**TINY, "strides": [[1, 2, 64]] * 2, "kernel_sizes": [[3, 3, 3]] * 3}}, {}, "no patch has"),
        ("trunk", {}, {"trunk.up.0.bias": torch.ones(2)}, "the file was changed"),
        ("trunk", {}, {"trunk.added": torch.ones(2)}, "the file was changed"),
        ("knee_mri", {"kind": "trunk"}, {}, "is no adapter file"),
        ("knee_mri", {"trunk": "0" * 64}, {}, "was trained with trunk 0000"),
        ("knee_mri", {"domain": DOMAIN.name}, {}, "does not own"),
        ("knee_mri", {"domain": "../x"}, {}, "does not own"),
        ("knee_mri", {"shape": {**TINY, "out_channels": 3}}, {}, "wrong shape (2)"),
        ("knee_mri", {"shape": {**TINY, "in_channels": 10**12}}, {}, "wrong shape"),
        ("knee_mri", {"shape": {**TINY, "strides": []}}, {}, "header field shape.strides"),
        ("knee_mri", {}, {"domains.knee_mri.output.bias": torch.ones(2)}, "the file was changed"),
    ],
)
def test_changed_files_are_refused(
    models: Path, file: str, header: dict[str, Any], tensors: dict[str, torch.Tensor], message: str
) -> None:
    rewrite(models / f"{file}.safetensors", header, **tensors)
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_network(models)


def test_an_adapter_of_another_plan_is_refused(models: Path) -> None:
    plan = {k: v for k, v in network().config.items() if k != "domains"}
    rewrite(models / "knee_mri.safetensors", {"network": {**plan, "deep_supervision": "sum"}})
    with pytest.raises(WeightsError, match="another network plan"):
        load_network(models)


def test_a_description_that_disagrees_is_refused(models: Path) -> None:
    other = DOMAIN.model_copy(update={"channels": ("T1", "T2")})
    with pytest.raises(WeightsError, match=r"in_channels is 1, but domain\.json says 2"):
        load_network(models, other)
    (models / "knee_mri.safetensors").replace(models / f"{DOMAIN.name}.safetensors")
    with pytest.raises(WeightsError, match="is the adapter of 'knee_mri'"):
        load_network(models, DOMAIN)


def test_absent_and_foreign_files(models: Path) -> None:
    save_file({"w": torch.ones(1)}, models / "knee_mri.safetensors")
    with pytest.raises(WeightsError, match="has no header of this project"):
        load_network(models)
    save_file({"w": torch.ones(1)}, models / "knee_mri.safetensors", {"u2net": "[]"})
    with pytest.raises(WeightsError, match="header is no JSON object"):
        load_network(models)
    for path in models.glob("*_mri.safetensors"):
        path.unlink()
    with pytest.raises(WeightsError, match="no adapter"):
        load_network(models)
    with pytest.raises(WeightsError, match=f"{DOMAIN.name}.safetensors: no such file"):
        load_network(models, DOMAIN)
    (models / "trunk.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"trunk\.safetensors: no such file"):
        load_network(models)


def test_weights_that_diverged_are_not_saved(tmp_path: Path) -> None:
    broken = network()
    next(broken.parameters()).data.fill_(torch.inf)
    with pytest.raises(WeightsError, match="NaN or infinite"):
        save_bundle_weights(broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["u2net"])


NOTES = {
    "description": DOMAIN,
    "training": {"steps": 7, "cases": ["a", "b"], "command": None},
    "metrics": {"dice": 0.9, "undefined": float("nan")},
    "licence": "CC-BY-SA 4.0",
}


def test_notes_change_no_weight_and_no_output(models: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    plain, noted, again = models, tmp_path_factory.mktemp("noted"), tmp_path_factory.mktemp("again")
    for folder in (noted, again):
        save_bundle_weights(load_network(plain), folder, {DOMAIN.name: NOTES})
    path = f"{DOMAIN.name}.safetensors"
    assert {k: v for k, v in header(noted / path).items() if k not in NOTES} == header(plain / path)
    assert header(noted / path)["training"] == NOTES["training"], "a None inside is kept"
    assert header(noted / path)["metrics"] == {"dice": 0.9, "undefined": None}
    assert Domain.from_dict(header(noted / path)["description"]) == DOMAIN
    assert (noted / path).read_bytes() == (again / path).read_bytes()
    for other in ("trunk.safetensors", "knee_mri.safetensors", "model.pt"):
        assert (noted / other).read_bytes() == (plain / other).read_bytes()
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        assert torch.equal(load_network(noted, DOMAIN)(x), load_network(plain, DOMAIN)(x))


def test_notes_stay_with_the_weights_that_they_describe(models: Path) -> None:
    network = load_network(models)
    save_bundle_weights(network, models, {DOMAIN.name: NOTES, "knee_mri": {"licence": "CC0"}})
    with torch.no_grad():
        network.domains["knee_mri"]["output"].bias.add_(1)
    save_bundle_weights(network, models)
    assert header(models / f"{DOMAIN.name}.safetensors")["licence"] == "CC-BY-SA 4.0"
    assert "licence" not in header(models / "knee_mri.safetensors"), "other weights may have another licence"


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"hand_mri": {}}, "notes for hand_mri, which the network does not have"),
        ({"knee_mri": {"description": DOMAIN}}, f"is the adapter of 'knee_mri', not of '{DOMAIN.name}'"),
        ({"knee_mri": {"training": {"network": object()}}}, "notes are no JSON values"),
        ({"knee_mri": {"license": "CC0"}}, "notes, license: Extra inputs are not permitted"),
    ],
)
def test_notes_that_are_not_right_are_refused(models: Path, notes: dict[str, Any], message: str) -> None:
    before = {path: path.read_bytes() for path in models.iterdir()}
    with pytest.raises(WeightsError, match=re.escape(message)):
        save_bundle_weights(load_network(models), models, notes)
    assert {path: path.read_bytes() for path in models.iterdir()} == before


def test_two_files_of_one_domain_are_refused(models: Path) -> None:
    (models / "copy.safetensors").write_bytes((models / "knee_mri.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"an adapter of 'knee_mri', and so is copy\.safetensors; keep one"):
        load_network(models)


def test_files_that_a_killed_process_left_are_no_adapters(models: Path) -> None:
    (models / ".abc.safetensors").write_bytes(b"")
    assert set(load_network(models).domains) == {DOMAIN.name, "knee_mri"}


def test_no_domain_takes_the_name_of_the_trunk(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be called 'trunk'"):
        save_bundle_weights(U2Net({"trunk": TINY}, channels=(2, 2)), tmp_path)
    assert list(tmp_path.iterdir()) == []
