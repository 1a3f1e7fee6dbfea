"""Which domains a bundle describes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from custom_components.errors import InputError
from custom_components.inference import bundle_domains


def test_what_is_being_written_is_no_domain(repository: Path, tmp_path: Path) -> None:
    described = repository / "bundles" / "universal_segmentation" / "configs" / "domains"
    shutil.copytree(described, tmp_path / "configs" / "domains")
    names = sorted(path.stem for path in described.glob("*.json"))
    shutil.copy(described / f"{names[0]}.json", tmp_path / "configs" / "domains" / ".half.tmp.json")
    assert list(bundle_domains(tmp_path)) == names


def test_one_domain_goes_by_the_name_in_its_description(bundle: Path) -> None:
    assert bundle_domains(bundle) == {"hippocampus_mri": bundle / "configs" / "domain.json"}
    with pytest.raises(InputError, match="is no folder"):
        bundle_domains(bundle / "absent")
