"""What is needed to say later how a label was made: hashes of image, weights and label, and versions."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from custom_components.data import ImagePath

__all__ = ["file_sha256", "image_sha256", "versions", "weights_sha256"]

PACKAGES = ("u2net-monai", "torch", "monai", "numpy", "scipy", "nibabel", "itk-core", "connected-components-3d")


def versions() -> dict[str, str | None]:
    """Of Python, the operating system and the packages that take part; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # the project can also be run from its folder
            found[package] = None
    return found


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def image_sha256(image: ImagePath) -> str:
    """SHA-256 of an image.

    Of a file: of its bytes, as ``sha256sum`` prints it. Of a folder, or of several files: of the lines ``<hash>  <name>``
    of their files, sorted by name within a folder, in the order given between channels.
    """
    if isinstance(image, Sequence) and not isinstance(image, str):
        return _digest("".join(f"{image_sha256(part)}  {Path(part).name}\n" for part in image).encode())
    path = Path(image)
    if not path.is_dir():
        return file_sha256(path)
    files = sorted(entry for entry in path.iterdir() if entry.is_file())
    return _digest("".join(f"{file_sha256(file)}  {file.name}\n" for file in files).encode())


def weights_sha256(models_dir: str | Path, domain: str) -> dict[str, str]:
    """The files that `custom_components.weights.load_network` reads for one domain, by name."""
    return {name: file_sha256(Path(models_dir) / name) for name in ("trunk.safetensors", f"{domain}.safetensors")}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
