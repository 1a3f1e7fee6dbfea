"""Packaged bundles: the hippocampus with its trained weights, and a small universal one with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from custom_components.archives.archive import unpacked
from custom_components.sharing.package import Package, package_bundle
from tests.sharing.bundles import complete_universal


@pytest.fixture(scope="session")
def hippocampus_zip(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_bundle(bundle, tmp_path_factory.mktemp("packaged")).path


@pytest.fixture(scope="session")
def universal(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the domains ``first`` and ``second``; do not write into it."""
    return complete_universal(bundle, tmp_path_factory.mktemp("universal") / "small_universal")


@pytest.fixture(scope="session")
def universal_package(universal: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return package_bundle(universal, tmp_path_factory.mktemp("packaged"), weights_licence="CC0-1.0")


@pytest.fixture
def folder(universal_package: Package, tmp_path: Path) -> Path:
    """The packaged universal bundle, unpacked, to be changed at will."""
    with unpacked(universal_package.path, tmp_path) as found:
        return found.rename(tmp_path / found.name)


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "200"})
