"""A bundle's metadata is valid without a network connection, and says what domain, package and requirements say."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import verify_metadata

from custom_components import __version__
from custom_components.domain import Domain

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "bundles" / "metadata_schema.json"
BUNDLES = sorted(p.parents[1] for p in ROOT.glob("bundles/*/configs/metadata.json"))


OF_ONE_DOMAIN = [bundle for bundle in BUNDLES if (bundle / "configs" / "domain.json").is_file()]


@pytest.fixture(params=BUNDLES, ids=lambda p: p.name)
def bundle(request: pytest.FixtureRequest) -> Path:
    return request.param


def metadata(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))


def test_monai_accepts_it_offline(bundle: Path) -> None:
    before = SCHEMA.read_bytes()
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(SCHEMA))
    assert SCHEMA.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("version"),
        lambda m: m.pop("required_packages_version"),
        lambda m: m.update(changelog={}),
        lambda m: m.update(eval_metrics={"mean_dice": "good"}),
        lambda m: m.update(typo="x"),
        lambda m: m["network_data_format"].pop("outputs"),
        lambda m: m["network_data_format"]["inputs"]["image"].update(num_channels=0),
        lambda m: m["network_data_format"]["inputs"]["image"].update(spatial_shape=["8*m"] * 3),
    ],
)
def test_the_schema_refuses_what_is_wrong(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = metadata(BUNDLES[0])
    change(values)
    (tmp_path / "metadata.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(SCHEMA))


@pytest.mark.parametrize("bundle", OF_ONE_DOMAIN, ids=lambda p: p.name)
def test_it_describes_the_domain(bundle: Path) -> None:
    domain = Domain.from_file(bundle / "configs" / "domain.json")
    formats = metadata(bundle)["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    assert image["modality"] == domain.modality
    assert image["num_channels"] == domain.in_channels
    assert list(image["channel_def"].values()) == list(domain.channels)
    assert pred["num_channels"] == domain.out_channels
    assert pred["channel_def"] == {str(index): name for name, index in sorted(domain.labels.items(), key=lambda i: i[1])}
    assert image["spatial_shape"] == pred["spatial_shape"] == [f"{size}*n" for size in domain.patch_size]


def test_versions_are_those_that_were_tested(bundle: Path) -> None:
    values = metadata(bundle)
    pinned = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE))
    named = {
        "monai": values["monai_version"],
        "torch": values["pytorch_version"],
        "numpy": values["numpy_version"],
        **values["required_packages_version"],
    }
    assert named == {name: pinned.get(name) for name in named}
    assert next(iter(values["changelog"])) == values["version"] == __version__
