"""A domain's description is validated whole: nothing unknown, nothing missing, nothing inconsistent."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from custom_components.domain import Domain, DomainError
from custom_components.errors import InputError


@pytest.fixture
def values(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "configs" / "domain.json").read_text())


def test_the_shipped_domain_is_the_original_recipe_of_the_hippocampus(bundle: Path) -> None:
    domain = Domain.from_file(bundle / "configs" / "domain.json")
    assert (domain.name, domain.in_channels, domain.out_channels) == ("hippocampus_mri", 1, 3)
    assert domain.classes == ("anterior", "posterior")
    assert domain.spacing == (1, 1, 1)
    assert domain.patch_size == (40, 56, 40)
    assert domain.stray_labels == "background"
    assert domain.intensity.percentiles == (2, 98)


def test_json_round_trip(bundle: Path) -> None:
    domain = Domain.from_file(bundle / "configs" / "domain.json")
    assert Domain.from_dict(json.loads(domain.to_json())) == domain


def test_network_is_what_the_levels_say(values: dict[str, Any]) -> None:
    network = Domain.from_dict(values).network
    assert json.loads(json.dumps(network)) == network, "must be plain JSON"
    assert len(network["kernel_sizes"]) == len(network["strides"]) + 1


def test_every_field_is_needed(values: dict[str, Any]) -> None:
    for field in values:
        lacking = {k: v for k, v in values.items() if k != field}
        with pytest.raises(DomainError, match=f"{field}: is missing"):
            Domain.from_dict(lacking)


@pytest.mark.parametrize(
    "inside", [(), ("intensity",), ("sampling",), ("augmentation", "elastic"), ("postprocessing", "anterior")]
)
def test_an_unknown_field_is_named(values: dict[str, Any], inside: tuple[str, ...]) -> None:
    part = values
    for key in inside:
        part = part[key]
    part["patchsize"] = 3
    with pytest.raises(DomainError, match=r"patchsize: is not a known field"):
        Domain.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("name", "Hippo campus", "name"),
        ("name", "../evil", "name"),
        ("name", "trunk", "name: 'trunk' is another file's in a bundle's models folder"),
        ("name", "model", "name: 'model' is another file's"),
        ("name", "last", "name: 'last' is another file's"),
        ("modality", "PET", "modality"),
        ("channels", [], "channels"),
        ("labels", {"background": 0, "anterior": 2}, "without gaps"),
        ("labels", {"anterior": 0, "posterior": 1}, "background"),
        ("labels", {"background": 0}, "at least one class"),
        ("label_merges", {"1": 2}, "label_merges"),
        ("label_merges", {"7": 9}, "label_merges"),
        ("stray_labels", "ignore", "stray_labels"),
        ("crop_margin", -1, "crop_margin"),
        ("spacing", [0, 1, 1], "spacing"),
        ("spacing", [1, 1], "spacing"),
        ("spacing", [1, 1, float("nan")], "spacing"),
        ("patch_size", [40, 55, 40], "not divisible by 8"),
        ("patch_size", [40, 56, 2**31], "patch_size"),
        ("strides", [[2, 2, 2]] * 17, "strides"),
        ("strides", [[2, 2, 2]] * 2 + [[65, 1, 1]], "strides"),
        ("kernel_sizes", [[3, 3, 3]], "4 levels"),
        ("kernel_sizes", [[3, 3, 2]] * 4, "odd"),
        ("kernel_sizes", [[3, 3, 65]] * 4, "kernel_sizes"),
        ("postprocessing", {"tumour": {"closing": 1, "keep": 1}}, "tumour"),
        ("postprocessing", {"background": {"closing": 1, "keep": 1}}, "background"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], field: str, value: object, says: str) -> None:
    values[field] = value
    with pytest.raises(DomainError, match=says):
        Domain.from_dict(values)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("intensity", "percentiles"), [98.0, 2.0]),
        (("sampling", "foreground"), 0.9),
        (("sampling", "batch_size"), 0),
        (("augmentation", "scale", "range"), [2.0, 1.0]),
        (("augmentation", "elastic", "sigma"), [13.0, 10.0]),
        (("augmentation", "rotation", "angles"), [[1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]),
        (("augmentation", "mirror", "axes"), [3]),
        (("augmentation", "noise", "probability"), 1.5),
        (("postprocessing", "anterior", "keep"), 3),
    ],
)
def test_a_wrong_value_deep_inside_is_named(values: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    changed = copy.deepcopy(values)
    part = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(DomainError, match=path[0]):
        Domain.from_dict(changed)


def test_merges_read_from_json_have_whole_number_keys(values: dict[str, Any]) -> None:
    values["label_merges"] = {"3": 1}
    assert Domain.from_dict(values).label_merges == {3: 1}


def test_a_field_that_comes_twice_is_named(bundle: Path, tmp_path: Path) -> None:
    """One reader takes the first, another the last."""
    path = tmp_path / "domain.json"
    text = (bundle / "configs" / "domain.json").read_text()
    path.write_text(text.replace('"modality": "MR"', '"modality": "CT", "modality": "MR"'))
    with pytest.raises(DomainError, match="the key 'modality' comes twice"):
        Domain.from_file(path)


@pytest.mark.parametrize("content", [None, "{", "[1, 2]", "[" * 100_000])
def test_an_unusable_file_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "domain.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"domain\.json"):
        Domain.from_file(path)


def test_a_domain_cannot_be_changed(values: dict[str, Any]) -> None:
    domain = Domain.from_dict(values)
    with pytest.raises(ValueError, match="frozen"):
        domain.crop_margin = 3  # type: ignore[misc]


def test_a_config_can_name_it_and_read_its_fields(bundle: Path) -> None:
    parser = ConfigParser(
        {
            "domain": {"_target_": "custom_components.domain.Domain.from_file", "path": str(bundle / "configs" / "domain.json")},
            "spacing": "$@domain.spacing",
        }
    )
    assert parser.get_parsed_content("spacing") == (1, 1, 1)
