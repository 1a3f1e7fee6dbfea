"""Which images are meant by what a user gives, and what their labels are called."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom_components.data import ImagePath, image_name
from custom_components.errors import InputError

__all__ = ["check_names", "check_output_dir", "find_images", "label_path", "output_name"]

POSTFIX = "_seg"
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
DICOM_MAGIC = (128, b"DICM")  # offset and value (DICOM PS3.10, section 7.1)


def find_images(inputs: str | Path | Sequence[str | Path]) -> list[str | list[str]]:
    """Resolve files, folders and globs to images.

    Args:
        inputs: one or several of: an image file; a folder with images (sorted by name), with one DICOM series, or with
            one folder per DICOM series; a glob of these; the files of one image's channels, joined by commas.

    Returns:
        Paths in the order given, each once: a string, or a list with one file per channel.

    Raises:
        InputError: something does not exist or holds no image, nothing was given, or two images would give one label name.
    """
    given = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    if not given:
        raise InputError("no image given; name files, folders or globs")
    found: list[str | list[str]] = []
    for item in given:
        found += [image for image in _resolve(os.path.expanduser(str(item))) if image not in found]
    check_names(found)
    return found


def check_names(images: Sequence[ImagePath]) -> None:
    """Refuse images whose labels would overwrite each other.

    Raises:
        InputError: two of them have the same name.
    """
    seen: dict[str, ImagePath] = {}
    for image in images:
        # Without case, as two names that differ by it only are one file on macOS and Windows.
        name = image_name(image).casefold()
        if name in seen:
            raise InputError(
                f"{_text(seen[name])} and {_text(image)} would both be written as {image_name(image)}{POSTFIX}.nii.gz; "
                "segment them into different folders"
            )
        seen[name] = image


def check_output_dir(folder: str | Path) -> None:
    """Find out before hours of work, and without making anything, that a folder can be written to or made.

    Raises:
        InputError: it, or the nearest folder above it that exists, is a file or may not be written to.
    """
    path = Path(folder).expanduser().absolute()
    nearest = next(p for p in (path, *path.parents) if p.exists())
    if not nearest.is_dir():
        raise InputError(f"{folder}: cannot be made, since {nearest} is a file; choose another output folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: you may not write to {nearest}; choose another output folder")


def label_path(output_dir: str | Path, image: ImagePath, domain: str | None = None) -> Path:
    """``<output_dir>/<image name>_seg.nii.gz``, or ``…_<domain>_seg.nii.gz`` where several domains label one image."""
    infix = f"_{domain}" if domain is not None else ""
    return Path(output_dir) / f"{image_name(image)}{infix}{POSTFIX}.nii.gz"


def output_name(meta: Mapping[str, Any], saver: Any = None) -> dict[str, Any]:
    """``output_name_formatter`` of MONAI's ``SaveImaged`` that agrees with `label_path`.

    MONAI takes the last suffix off, also that of a DICOM folder named ``series.1``; so a suffix is put on for it to take.
    """
    return {"subject": f"{image_name(str(meta['filename_or_obj']))}.nii.gz"}


def _resolve(text: str) -> list[str | list[str]]:
    path = Path(text)
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        return [text]
    if "," in text:
        return [_channels(text)]
    if glob.has_magic(text):
        matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
        found = [image for match in _without_labels(matches) for image in _resolve(str(match))]
        if not found:
            raise InputError(f"{text}: matches no image; check the pattern")
        return found
    raise InputError(f"{text}: no such file or folder; check the path")


def _channels(text: str) -> list[str]:
    files = [part.strip() for part in text.split(",")]
    for file in files:
        if not Path(file).exists():
            raise InputError(f"{file or text}: no such file; the channels of one image are existing files joined by commas")
    return files


def _in_folder(folder: Path) -> list[str | list[str]]:
    # Names with a leading dot are half-written labels, or what macOS leaves in archives ("._case.nii.gz").
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    volumes = [entry for entry in entries if entry.name.lower().endswith(VOLUMES)]
    if volumes:
        return [str(volume) for volume in _without_labels(volumes)]
    if _is_series(folder):
        return [str(folder)]
    series = [str(entry) for entry in entries if entry.is_dir() and _is_series(entry)]
    if not series:
        raise InputError(f"{folder}: holds no image ({', '.join(VOLUMES)}) and no DICOM series; check the folder")
    return list(series)


def _without_labels(paths: Sequence[Path]) -> list[Path]:
    """Leave out labels that an earlier run wrote beside their images, those of one domain among several too (`label_path`)."""
    names = {image_name(path) for path in paths}

    def is_label(name: str) -> bool:
        if not name.endswith(POSTFIX):
            return False
        words = name.removesuffix(POSTFIX).split("_")
        return any("_".join(words[:n]) in names for n in range(1, len(words) + 1))

    return [path for path in paths if not is_label(image_name(path))]


def _is_series(folder: Path) -> bool:
    offset, magic = DICOM_MAGIC
    for entry in folder.iterdir():
        if entry.is_file():
            with open(entry, "rb") as file:
                if file.read(offset + len(magic))[offset:] == magic:
                    return True
    return False


def _text(image: ImagePath) -> str:
    return str(image) if isinstance(image, str | Path) else ",".join(str(file) for file in image)
