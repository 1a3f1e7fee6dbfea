"""Scores of segmentations that are saved as files."""

from __future__ import annotations

from pathlib import Path

from monai.data.utils import affine_to_spacing

from custom_components.data import check_same_grid, image_name, read_label
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.training.metrics import METRICS, score_case
from custom_components.transforms import MapLabels

__all__ = ["pair_files", "score_files"]

SEGMENTATION = "_seg"  # what the project's own segmentations have after the image's name


def pair_files(predictions: str | Path, labels: str | Path) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """Pair the files of two folders by name.

    Args:
        predictions: folder with ``NAME.*`` or ``NAME_seg.*``.
        labels: folder with ``NAME.*``.

    Returns:
        Case name to prediction and label, sorted, and case name to what is wrong with it.

    Raises:
        InputError: a folder is missing or empty, a name comes twice in one, or no name is in both.
    """
    found, reference = _by_name(Path(predictions)), _by_name(Path(labels))
    found = {name if name in reference else name.removesuffix(SEGMENTATION): path for name, path in found.items()}
    pairs = {name: (found[name], reference[name]) for name in sorted(found.keys() & reference.keys())}
    if not pairs:
        raise InputError(f"{predictions}: no file has the name of a label in {labels} (NAME or NAME{SEGMENTATION})")
    failed = {name: f"{found[name]}: no label of this name in {labels}" for name in found.keys() - reference.keys()}
    failed |= {name: f"{reference[name]}: no segmentation of it in {predictions}" for name in reference.keys() - found.keys()}
    return pairs, dict(sorted(failed.items()))


def score_files(prediction: Path, label: Path, domain: Domain, tolerance: float = 1.0) -> dict[str, dict[str, float]]:
    """Score one saved segmentation on the grid of its label; arguments and result as `score_case`.

    Merges and stray values of the domain apply to the label; the segmentation must hold classes only.

    Raises:
        InputError: a file cannot be read, the grids differ, or a value is no class.
    """
    reference = read_label(label)
    segmentation = read_label(prediction)
    check_same_grid(
        tuple(segmentation.shape[1:]),
        segmentation.affine.numpy(),
        str(prediction),
        tuple(reference.shape[1:]),
        reference.affine.numpy(),
        str(label),
    )
    classes = MapLabels(domain.labels)(segmentation)
    truth = MapLabels(domain.labels, domain.label_merges, domain.stray_labels)(reference)
    spacing = affine_to_spacing(reference.affine).tolist()
    return score_case(classes[0].numpy(), truth[0].numpy(), spacing, domain.classes, tolerance, METRICS)


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    named: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir() or image_name(path) == path.name:
            continue  # not an image's suffix
        if image_name(path) in named:
            raise InputError(f"{folder}: {named[image_name(path)].name} and {path.name} are two files of one name; keep one")
        named[image_name(path)] = path
    if not named:
        raise InputError(f"{folder}: has no image files")
    return named
