"""Every bundle that is made from the template, and phantoms of its domain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from custom_components.bundles import Facts
from custom_components.domain import Domain
from tests.bundles.training_runs import smallest_patch
from tests.phantoms import decathlon_of

MADE = sorted(path.parents[1] for path in (Path(__file__).parents[2] / "bundles").glob("*/docs/facts.json"))


@dataclass(frozen=True)
class Made:
    """A bundle that is made from the template."""

    folder: Path

    @property
    def domain(self) -> Domain:
        return Domain.from_file(self.folder / "configs" / "domain.json")

    @property
    def facts(self) -> Facts:
        return Facts.from_file(self.folder / "docs" / "facts.json")


@pytest.fixture(params=MADE, ids=lambda p: p.name.removesuffix("_segmentation"), scope="module")
def made(request: pytest.FixtureRequest) -> Made:
    return Made(request.param)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Domain name to a Decathlon folder of five phantoms of it; do not write into them."""
    root = tmp_path_factory.mktemp("domains")
    folders = {}
    for made in map(Made, MADE):
        z, y, x = smallest_patch(made.domain)
        outside = made.domain.name == "headneck_ct"
        shape = (x + 3, y + 2, z + 1)
        folders[made.domain.name] = decathlon_of(root, made.domain, made.facts.dataset, shape, zero_outside=outside)
    return folders
