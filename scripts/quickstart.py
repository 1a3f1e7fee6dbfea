"""Segment the anterior and posterior hippocampus: on the MNI152 brain that nilearn ships, or on an image of your own."""

from __future__ import annotations

import time

STARTED = time.perf_counter()  # before everything else: the imports are a part of what a user waits for

import argparse  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any, NoReturn  # noqa: E402

if TYPE_CHECKING:  # --help must work, and a wrong argument be refused, before anything is installed
    from monai.data import MetaTensor

    from custom_components.inference.regions import Region
    from custom_components.inference.sides import Finding

REPOSITORY = Path(__file__).resolve().parents[1]
TEMPLATE = Path("datasets", "data", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")  # in nilearn's package

DESCRIPTION = """\
Segments the anterior and posterior hippocampus on a T1 MRI and writes labels (NIfTI), volumes (JSON) and a picture (PNG).
Without IMAGE it takes the MNI152 brain that nilearn ships; nothing is downloaded for it.

IMAGE is a NIfTI, NRRD or MetaImage file, or a folder with one DICOM series. It may be
  - a cropped hippocampal region, no longer than 90 mm on any axis: it is segmented as it is;
  - a whole head in MNI152 space: its header says so (NIfTI xform code 4), or you do (--space mni);
  - any other whole head, when you say where a hippocampus is (--centre-left, --centre-right)."""
EPILOG = """\
examples:
  bash scripts/quickstart.sh
  bash scripts/quickstart.sh hippocampus_crop.nii.gz
  bash scripts/quickstart.sh t1_in_mni.nii.gz --space mni --output-dir results
  bash scripts/quickstart.sh t1.nii.gz --centre-left -29,-18,-22 --centre-right 25,-18,-21

Coordinates are the image's own in mm, as viewers show them: x to the patient's right, y forward, z up. Point at the middle
of the hippocampus, to a few mm: a box of 36 × 52 × 36 mm about it is cut out, and grows where the label reaches its faces.
Labels lie on the image's own grid. For research, not for diagnosis."""


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    image: Path | None = None
    output_dir: Path = REPOSITORY / "output" / "quickstart"
    mni: bool = False
    centres: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # side to x, y, z, mm
    bundle: Path = REPOSITORY / "bundles" / "hippocampus_mri_segmentation"
    device: str | None = None


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    from custom_components.allocator import reuse_large_tensors
    from custom_components.errors import InputError

    reuse_large_tensors()
    try:
        run(options)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as every other error here."""
        print(f"error: {message}; --help shows examples", file=sys.stderr)
        raise SystemExit(2)


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; a wrong one ends the program with one line and status 2."""
    parser = _Parser(
        prog="bash scripts/quickstart.sh",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    plain = Options()
    parser.add_argument("image", metavar="IMAGE", nargs="?", type=Path, help="your own T1 image (default: the MNI152 brain)")
    parser.add_argument(
        "--output-dir", metavar="D", type=Path, default=plain.output_dir, help="where results go (default: output/quickstart)"
    )
    parser.add_argument("--space", choices=["mni"], help="the image is in MNI152 space, whatever its header says")
    for side in ("left", "right"):
        parser.add_argument(f"--centre-{side}", metavar="x,y,z", type=_point, help=f"middle of the {side} hippocampus, mm")
    parser.add_argument("--bundle", metavar="B", type=Path, default=plain.bundle, help="another hippocampus bundle")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    given = parser.parse_args(_joined(arguments))
    centres = {side: point for side in ("left", "right") if (point := getattr(given, f"centre_{side}")) is not None}
    if given.image is None and (given.space or centres):
        parser.error("--space and --centre-… describe an IMAGE; name it")
    image = given.image and given.image.expanduser()
    return Options(image, given.output_dir.expanduser(), given.space == "mni", centres, given.bundle, given.device)


def _joined(arguments: Sequence[str]) -> list[str]:
    """``--centre-left -29,…`` as ``--centre-left=-29,…``, since argparse takes what begins with a dash for an option."""
    words = list(arguments)
    for i in range(len(words) - 2, -1, -1):
        if words[i] in ("--centre-left", "--centre-right"):
            words[i : i + 2] = [f"{words[i]}={words[i + 1]}"]
    return words


def _point(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not three numbers with commas, such as -29,-18,-22") from None
    if not all(map(math.isfinite, (x, y, z))):
        raise argparse.ArgumentTypeError(f"'{text}' has a number that is not finite")
    return x, y, z


def run(options: Options, segmenter: Any = None) -> dict[str, Path]:
    """Read, segment, write and print.

    Args:
        options: what to do.
        segmenter: see `custom_components.inference.sides.SegmentsImages`; None takes the bundle's.

    Returns:
        What was written: kind to path.

    Raises:
        InputError: something given cannot be used; nothing has been written.
    """
    from custom_components.data import image_name, read_image
    from custom_components.inference import Segmenter
    from custom_components.inference.outputs import nifti_bytes, write_together
    from custom_components.inference.sides import find, regions_for

    seconds: dict[str, float] = {}
    if setup := float(os.environ.get("QUICKSTART_SETUP_SECONDS") or 0):
        seconds["environment"] = setup
    mark = time.perf_counter()
    seconds["imports"] = mark - STARTED

    def lap(stage: str) -> None:
        nonlocal mark
        seconds[stage], mark = time.perf_counter() - mark, time.perf_counter()

    check_folder(options.output_dir)
    path = options.image or template()
    name = image_name(path) if options.image else "mni152"
    image = read_image(path, channels=1)
    regions = regions_for(image, str(path), options.mni or options.image is None, options.centres)
    lap("read")
    segmenter = segmenter or Segmenter.from_bundle(options.bundle, options.device)
    lap("weights")
    finding = find(image, regions, segmenter, str(path))
    lap("segmentation")
    classes, affine = segmenter.domain.classes, image.affine.numpy()
    figure = picture(image, finding, name, classes)
    contents: dict[str, tuple[str, bytes]] = {}
    if options.image is None:
        contents["image"] = (f"{name}.nii.gz", path.read_bytes())
    contents["labels"] = (f"{name}_seg.nii.gz", nifti_bytes(finding.label, affine, path))
    if regions:
        contents["labels by side"] = (f"{name}_sides.nii.gz", nifti_bytes(finding.sides, affine, path))
    contents["picture"] = (f"{name}.png", figure)
    lap("picture and files")
    report = summary(finding, path, regions, classes, options, seconds)
    contents["volumes"] = (f"{name}_volumes.json", (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    files = {kind: options.output_dir / file for kind, (file, _) in contents.items()}
    write_together({files[kind]: data for kind, (_, data) in contents.items()})
    tell(finding, files, classes, seconds)
    return files


def template() -> Path:
    """The MNI152 T1 brain (1 mm, skull-stripped) inside nilearn's package, found without importing that.

    Raises:
        InputError: nilearn is not installed, or a release of it keeps the brain elsewhere.
    """
    from custom_components.errors import InputError

    spec = find_spec("nilearn")
    path = Path(spec.origin).parent / TEMPLATE if spec and spec.origin else TEMPLATE
    if not path.is_file():
        raise InputError(
            f"{path}: nilearn's MNI152 brain is not there; pip install -r requirements.txt, or give an image of yours"
        )
    return path


def check_folder(folder: Path) -> None:
    """Refuse a folder that could not be written to before the work is done, and make nothing yet.

    Raises:
        InputError: it, or the nearest folder above it that exists, is no folder or not writable.
    """
    from custom_components.errors import InputError

    nearest = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written to; choose another folder with --output-dir")


def picture(image: MetaTensor, finding: Finding, name: str, classes: Sequence[str]) -> bytes:
    """PNG with a row for each side."""
    from custom_components.inference.picture import View, draw_views
    from custom_components.inference.sides import one_side

    views = []
    for i, (side, volumes) in enumerate(finding.volumes.items()):
        own = one_side(finding.sides, i, len(classes))
        parts = ", ".join(f"{part} {volume / 1000:.2f}" for part, volume in volumes.items())
        views.append(View(image, own, f"{side} {sum(volumes.values()) / 1000:.2f} cm³\n{parts}"))
    buffer = io.BytesIO()
    figure = draw_views(views, [f"{part} hippocampus" for part in classes], title=name)
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor())
    return buffer.getvalue()


def summary(
    finding: Finding, path: Path, regions: Sequence[Region], classes: Sequence[str], options: Options, seconds: dict[str, float]
) -> dict[str, Any]:
    """What the JSON file holds."""
    names = [f"{side} {part}" for side in finding.volumes for part in classes]
    return {
        "image": path.name,
        "bundle": options.bundle.name,
        "volumes_mm3": {side: {**v, "total": sum(v.values())} for side, v in finding.volumes.items()},
        "warnings": finding.warnings,
        "labels": {part: i for i, part in enumerate(classes, start=1)},
        "labels_by_side": {name: i for i, name in enumerate(names, start=1)} if regions else {},
        "boxes_mm": {r.name: {"centre": r.centre, "size": r.size} for r in regions},
        # First and one past the last voxel on each axis of the image: a box that cut a label off has grown.
        "voxels": {side: [[s.start, s.stop] for s in window] for side, window in finding.windows.items()},
        "seconds": {stage: round(s, 3) for stage, s in {**seconds, **finding.seconds}.items()},
    }


def tell(finding: Finding, files: dict[str, Path], classes: Sequence[str], seconds: dict[str, float]) -> None:
    """Print volumes, warnings, files and times."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table("", *(f"{part}, mm³" for part in classes), "together, mm³", title="Hippocampus", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for side, volumes in finding.volumes.items():
        table.add_row(side, *(f"{v:.0f}" for v in volumes.values()), f"{sum(volumes.values()):.0f}")
    console.print(table)
    for warning in finding.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for kind, path in files.items():
        console.print(f"{kind:>14}  {os.path.relpath(path)}", markup=False)
    parts = ", ".join(f"{stage} {s:.1f}" for stage, s in seconds.items())
    console.print(f"{sum(seconds.values()):.1f} s: {parts}", markup=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
