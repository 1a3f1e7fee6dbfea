"""Bundles that can be served, and the copy that trained adapters go into. Needs no MONAI Label."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.label_app.collection import Bundle, Collection
from custom_components.label_app.own_copy import check_name, differs_from_shipped, take_in
from custom_components.networks import U2Net
from custom_components.weights import load_network, load_trunk, read_tensors, save_bundle_weights
from custom_components.weights.bundle_files import check_bundle
from tests.weights.bundles import PLAN, bundle_of, domain, randomised


def trained(bundle: Bundle, name: str, folder: Path, seed: int = 5) -> Path:
    """A random adapter of a bundle's trunk, as a training writes it."""
    header, trunk = load_trunk(bundle.models / "trunk.safetensors")
    described = domain(name, classes=3)
    torch.manual_seed(seed)
    network = randomised(U2Net({name: described.network}, **PLAN))
    network.load_state_dict(trunk, strict=False)
    save_bundle_weights(network, folder, {name: {"description": described}})
    assert load_trunk(folder / "trunk.safetensors")[0].sha256 == header.sha256
    return folder / f"{name}.safetensors"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_only_bundles_with_weights_are_served(collection: Collection, bundles: Path) -> None:
    served, left_out = collection.split()
    assert {bundle.name: bundle.names() for bundle in served} == {"many": ["liver_ct", "spleen_ct"], "one": ["heart_mr"]}
    assert list(left_out) == ["bare"] and "no trained weights" in left_out["bare"]
    assert set(collection.descriptions()) == {"liver_ct", "spleen_ct", "heart_mr", "kidney_ct"}
    some = Collection(bundles, collection.state, ["one"])
    assert [bundle.name for bundle in some.split()[0]] == ["one"]
    assert "kidney_ct" in some.descriptions()
    with pytest.raises(InputError, match="has no bundle two; it has bare, many, one"):
        Collection(bundles, collection.state, ["two"]).split()


@pytest.mark.parametrize("harm", ["adapter of another trunk", "description of another shape", "damaged"])
def test_weights_that_do_not_fit_are_left_out_with_the_reason(collection: Collection, bundles: Path, harm: str) -> None:
    (before, *_), _ = collection.split()
    assert before.name == "many"
    adapter = bundles / "many" / "models" / "liver_ct.safetensors"
    if harm == "adapter of another trunk":
        other = bundle_of(bundles.parent / "other", domain("liver_ct"), seed=7)
        adapter.write_bytes((other / "models" / adapter.name).read_bytes())
    elif harm == "damaged":
        content = bytearray(adapter.read_bytes())
        content[-1] ^= 1
        adapter.write_bytes(content)
    else:
        (bundles / "many" / "configs" / "domains" / "liver_ct.json").write_text(domain("liver_ct", classes=4).to_json())
    served, left_out = collection.split()
    assert [bundle.name for bundle in served] == ["one"]
    assert "liver_ct" in left_out["many"]
    assert before.names() == []


def test_files_that_are_about_to_be_written_are_not_looked_at(collection: Collection) -> None:
    """They go at any moment: a link to nowhere stands for one that has gone between the look at the folder and at the file."""
    many, one = collection.split()[0]
    for folder, name in (("models", ".x1.safetensors"), ("configs/domains", ".x1.json")):
        (many.shipped / folder / name).symlink_to("nowhere")
        (many.shipped / folder / name.replace("1", "2")).write_bytes(b"{half")
    assert many.names() == ["liver_ct", "spleen_ct"] and one.names() == ["heart_mr"]
    assert set(collection.descriptions()) == {"liver_ct", "spleen_ct", "heart_mr", "kidney_ct"}


@pytest.mark.parametrize("name", ["models/kidney_ct.safetensors", "configs/domains/kidney_ct.json"])
def test_a_file_that_goes_while_it_is_looked_at_is_an_input_error(collection: Collection, name: str) -> None:
    bundle = collection.split()[0][0]
    (bundle.shipped / name).symlink_to("nowhere")
    with pytest.raises(InputError, match=f"{name}: cannot be read"):
        bundle.domains()
    assert bundle.names() == []
    assert "many" in collection.split()[1]


@pytest.mark.parametrize("text", ['{"description": "one", "description": "two"}', '["description"]', '{"version": NaN}', "{"])
def test_metadata_that_could_be_read_in_two_ways_are_not_used(collection: Collection, text: str) -> None:
    bundle = collection.split()[0][0]
    path = bundle.shipped / "configs" / "metadata.json"
    path.write_text('{"description": "what it does", "version": "1.2", "more": 3}')
    assert bundle.metadata() == {"description": "what it does", "version": "1.2"}
    path.write_text(text)
    assert bundle.metadata() == {}


def test_an_adapter_goes_into_a_copy(collection: Collection, tmp_path: Path) -> None:
    bundle = collection.split()[0][0]
    shipped = contents(bundle.shipped)
    place = take_in(bundle, trained(bundle, "kidney_ct", tmp_path / "run"))
    assert place == bundle.own / "models" / "kidney_ct.safetensors"
    assert bundle.folder == bundle.own
    assert bundle.names() == ["kidney_ct", "liver_ct", "spleen_ct"]
    assert contents(bundle.shipped) == shipped
    assert check_bundle(bundle.own) == []
    for name in ("trunk", "liver_ct", "spleen_ct"):
        assert contents(bundle.own)[f"models/{name}.safetensors"] == shipped[f"models/{name}.safetensors"]
    assert [path.name for path in bundle.own.parent.iterdir()] == ["many"]


def test_a_bundle_of_one_domain_becomes_one_of_many(collection: Collection, tmp_path: Path) -> None:
    bundle = collection.split()[0][1]
    before = load_network(bundle.shipped / "models").state_dict()
    take_in(bundle, trained(bundle, "kidney_ct", tmp_path / "run"))
    assert bundle.names() == ["heart_mr", "kidney_ct"]
    assert not bundle.shipped_with_many and list(bundle.shipped_domains()) == ["heart_mr"]
    after = load_network(bundle.own / "models").state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert Domain.from_file(bundle.own / "configs" / "domains" / "heart_mr.json").name == "heart_mr"


def test_what_was_trained_before_is_replaced_and_kept(collection: Collection, tmp_path: Path) -> None:
    bundle = collection.split()[0][0]
    first, second = (trained(bundle, "kidney_ct", tmp_path / f"run{seed}", seed) for seed in (5, 6))
    take_in(bundle, first)
    take_in(bundle, second)
    wanted = read_tensors(second)
    assert all(torch.equal(v, wanted[k]) for k, v in read_tensors(bundle.own / "models" / "kidney_ct.safetensors").items())
    (kept,) = (bundle.own / "models" / "removed").iterdir()
    assert all(torch.equal(v, read_tensors(first)[k]) for k, v in read_tensors(kept).items())


def test_what_was_trained_before_is_served_until_the_new_one_is(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, at each of the files that are written."""
    bundle = collection.split()[0][0]
    first, second = (trained(bundle, "kidney_ct", tmp_path / f"run{seed}", seed) for seed in (5, 6))
    place = take_in(bundle, first)
    served, real = place.read_bytes(), os.fsync
    for room in range(20):
        left = [True] * room

        def full(handle: int, left: list[bool] = left) -> None:
            if not left:
                raise OSError(28, "No space left on device")
            left.pop()
            real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            try:
                take_in(bundle, second)
                break
            except InputError:
                pass
        assert bundle.names() == ["kidney_ct", "liver_ct", "spleen_ct"]
        assert place.read_bytes() == served and check_bundle(bundle.own) == []
    assert room > 2 and place.read_bytes() == second.read_bytes() and check_bundle(bundle.own) == []


def test_what_was_shipped_is_not_replaced(collection: Collection, tmp_path: Path) -> None:
    bundle = collection.split()[0][0]
    file = trained(bundle, "liver_ct", tmp_path / "run")
    for step in (lambda: check_name(bundle, "liver_ct"), lambda: take_in(bundle, file)):
        with pytest.raises(InputError, match="came with the domain 'liver_ct', which is not replaced"):
            step()
    assert not bundle.own.exists()


def test_an_adapter_of_another_trunk_is_not_taken_in(collection: Collection, tmp_path: Path) -> None:
    many, one = collection.split()[0]
    with pytest.raises(InputError, match="was trained with trunk"):
        take_in(many, trained(one, "kidney_ct", tmp_path / "run"))
    assert many.names() == ["liver_ct", "spleen_ct"] and not many.own.exists()


def test_a_trunk_that_was_exchanged_since_is_noticed(collection: Collection, bundles: Path, tmp_path: Path) -> None:
    bundle = collection.split()[0][0]
    assert not differs_from_shipped(bundle)
    take_in(bundle, trained(bundle, "kidney_ct", tmp_path / "run"))
    assert not differs_from_shipped(bundle)
    other = bundle_of(tmp_path / "newer", domain("liver_ct"), domain("spleen_ct", classes=3), seed=9)
    for path in (other / "models").iterdir():
        (bundles / "many" / "models" / path.name).write_bytes(path.read_bytes())
    assert differs_from_shipped(bundle)
    assert bundle.names() == ["kidney_ct", "liver_ct", "spleen_ct"]  # the copy still runs, on its own trunk


def test_what_a_training_left_is_not_copied(collection: Collection, tmp_path: Path) -> None:
    bundle = collection.split()[0][0]
    (bundle.shipped / "models" / "last.pt").write_bytes(b"large")
    (bundle.shipped / "models" / "before_training").mkdir()
    take_in(bundle, trained(bundle, "kidney_ct", tmp_path / "run"))
    assert not (bundle.own / "models" / "last.pt").exists()
    assert not (bundle.own / "models" / "before_training").exists()
