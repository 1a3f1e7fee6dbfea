"""Shared fixtures. Real data is optional: tests that use it are skipped, with the reason, where it is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLE = REPOSITORY / "bundles" / "hippocampus_mri_segmentation"

# Examples are drawn from a fixed seed and not timed: a slow machine must not fail a test.
settings.register_profile("repository", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("repository")


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def bundle() -> Path:
    return BUNDLE


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the Decathlon tasks: ``U2NET_DATA``, else ``shared/data`` beside the repository."""
    folder = Path(os.environ.get("U2NET_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set U2NET_DATA to a folder with Task04_Hippocampus")
    return folder


@pytest.fixture(scope="session")
def hippocampus_data(real_data: Path) -> Path:
    folder = real_data / "Task04_Hippocampus"
    if not (folder / "dataset.json").is_file():
        pytest.skip(f"no {folder}; set U2NET_DATA to a folder with Task04_Hippocampus")
    return folder


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Decathlon folder of ten small phantom cases; do not write into it."""
    from tests.phantoms import decathlon

    return decathlon(tmp_path_factory.mktemp("decathlon"))
