"""Segment images with a bundle; every label is written as OUTPUT_DIR/<image name>_seg.nii.gz on the image's own grid.

IMAGE is a NIfTI, NRRD or MetaImage file, a folder of these, a folder with one DICOM series (or a folder of such folders), a
glob in quotes, or the files of one image's channels joined by commas. Several can be given. Labels that the same
weights, description and flips have made are skipped, so a run that was stopped goes on where it was; any other label that is
there is an error and stays as it is. --overwrite makes all of them anew.

A universal bundle has several domains: --domain says which. Given several times, every image is read once and gets a label
from each, OUTPUT_DIR/<image name>_<domain>_seg.nii.gz.

Examples:

    python scripts/segment.py case_001.nii.gz 'more/*.nii.gz' --bundle bundles/hippocampus_mri_segmentation --output-dir labels

    python scripts/segment.py ct.nii.gz --bundle bundles/universal_segmentation --domain headneck_ct --output-dir labels

    python scripts/segment.py ct.nii.gz --bundle verified/somebody_elses --trusted-only --output-dir labels

No configuration of the bundle is evaluated, no code in it imported, nothing unpickled.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from custom_components.allocator import reuse_large_tensors
from custom_components.errors import InputError

if TYPE_CHECKING:  # torch and MONAI take seconds to import: --help must not wait for them
    from monai.data import MetaTensor

    from custom_components.inference import Segmenter

app = typer.Typer(add_completion=False)
console = Console(soft_wrap=True, highlight=False, markup=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


@dataclass
class Outcome:
    """What became of one image; the fields are those of the report."""

    image: str | list[str]
    status: str  # done, skipped, failed
    domain: str | None = None
    output: str | None = None
    error: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)
    volumes_mm3: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@app.command(help=__doc__)
def segment(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, folders or globs.", show_default=False)],
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.", show_default=False)],
    output_dir: Annotated[Path, typer.Option(help="Where the labels go.", show_default=False)],
    domain: Annotated[list[str] | None, typer.Option(help="Domain of a universal bundle; can be given several times.")] = None,
    models: Annotated[
        list[Path] | None, typer.Option(help="Weights to use instead of the bundle's; given several times, they are averaged.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="JSON with versions, hashes, volumes and the time of every stage.")] = None,
    flips: Annotated[bool, typer.Option("--flips", help="Average over mirror images: slower, a little better.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; CUDA where there is one, if not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make labels anew that are already there.")] = False,
    trusted_only: Annotated[
        bool, typer.Option("--trusted-only", help="Refuse weights and descriptions that are not as the bundle's manifest says.")
    ] = False,
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="With --trusted-only: public key (PEM) of who must have signed the manifest."),
    ] = None,
) -> None:
    started = time.perf_counter()
    try:
        from custom_components.inference import Segmenter, check_names, check_output_dir

        reuse_large_tensors()
        seconds = {"import": time.perf_counter() - started}
        check_output_dir(output_dir)
        if report is not None:
            check_output_dir(report.parent)
        found, outcomes = _find(images)
        check_names(found)
        if found:
            before = time.perf_counter()
            names: list[str | None] = list(dict.fromkeys(domain)) if domain else [None]
            _check_targets(found, names, output_dir)
            trusted = _trusted(bundle, names, models, public_key) if trusted_only or public_key else None
            folders = models or [bundle / "models"]
            segmenters = [Segmenter.from_bundle(bundle, device, flips, name, folders) for name in names]
            seconds["load"] = time.perf_counter() - before
            outcomes += _run(segmenters, found, output_dir, overwrite)
            if report is not None:
                seconds["total"] = time.perf_counter() - started
                _write_report(report, segmenters, bundle, folders, flips, seconds, outcomes, trusted)
                console.print(_split(outcomes))
    except InputError as error:
        errors.print(f"Error: {_line(error)}", style="red")
        raise typer.Exit(1) from None
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        errors.print(f"Error: {outcome.error}", style="red")
    if len(outcomes) > 1:
        console.print(_summary(outcomes))
    if failed:
        raise typer.Exit(1)


def _find(inputs: list[str]) -> tuple[list[str | list[str]], list[Outcome]]:
    """The images, and what is wrong with inputs that name none: these do not stop the others."""
    from custom_components.inference import find_images

    found: list[str | list[str]] = []
    failed: list[Outcome] = []
    for given in inputs:
        try:
            found += [image for image in find_images(given) if image not in found]
        except InputError as error:
            failed.append(Outcome(given, "failed", error=_line(error)))
    return found, failed


def _check_targets(images: list[str | list[str]], names: list[str | None], output_dir: Path) -> None:
    """Image ``a`` with domain ``x_y`` and image ``a_x`` with domain ``y`` would be one file."""
    from custom_components.inference import label_path

    targets: dict[Path, str] = {}
    for image in images:
        for name in names if len(names) > 1 else [None]:
            path, what = label_path(output_dir, image, name), f"{image} with domain {name}"
            if path in targets:
                raise InputError(f"{path}: would be the label of {targets[path]} and of {what}; use two output folders")
            targets[path] = what


def _trusted(bundle: Path, names: list[str | None], models: list[Path] | None, public_key: Path | None) -> dict[str, Any]:
    """What was checked of the bundle before anything of it is loaded."""
    from custom_components.inference import bundle_domain
    from custom_components.sharing.trusted import check_trusted

    if models:
        raise InputError(f"{models[0]}: is no part of the bundle, so its manifest says nothing of it; leave --models out")
    return check_trusted(bundle, [bundle_domain(bundle, name).name for name in names], public_key)


def _run(segmenters: list[Segmenter], images: list[str | list[str]], output_dir: Path, overwrite: bool) -> list[Outcome]:
    from custom_components.inference import label_path

    outcomes = []
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors) as progress:
        task = progress.add_task("segmenting", total=len(images) * len(segmenters))
        for image in images:
            source = Source(image)
            for segmenter in segmenters:
                name = segmenter.domain.name
                target = label_path(output_dir, image, name if len(segmenters) > 1 else None)
                progress.update(task, description=target.name)
                step = _keep if target.exists() and not overwrite else _segment
                outcomes.append(step(segmenter, source, target))
                progress.advance(task)
    return outcomes


class Source:
    """An image that is read once for all domains with the same number of channels."""

    def __init__(self, path: str | list[str]) -> None:
        self.path = path
        self._read: dict[int, MetaTensor] = {}

    def read(self, channels: int) -> tuple[MetaTensor, float]:
        """The image, and the seconds that reading it took now."""
        from custom_components.data import read_image

        before = time.perf_counter()
        if channels not in self._read:
            self._read[channels] = read_image(self.path, channels)
        return self._read[channels], time.perf_counter() - before


def _keep(segmenter: Segmenter, source: Source, target: Path) -> Outcome:
    """Skip an image whose label is there, provided that it lies on the image's grid and that this very model made it."""
    from custom_components.data import read_label
    from custom_components.inference import label_made_by

    name = segmenter.domain.name
    try:
        read_label(target, source.read(segmenter.domain.in_channels)[0])
        made_by = label_made_by(target)
    except InputError as error:
        wrong = f"{_line(error)} (--overwrite replaces a label that is there already)"
        return Outcome(source.path, "failed", name, error=wrong)
    if made_by != segmenter.identity:
        found = f"was made by another model or with other settings ({made_by})" if made_by else "does not say what made it"
        mend = "give another --output-dir, or --overwrite to replace it"
        wrong = f"{target}: is there already and {found}, this is {segmenter.identity}; {mend}"
        return Outcome(source.path, "failed", name, error=wrong)
    console.print(f"{target}: is there already, skipped (--overwrite makes it anew)")
    return Outcome(source.path, "skipped", name, str(target))


def _segment(segmenter: Segmenter, source: Source, target: Path) -> Outcome:
    from custom_components.inference.report import file_sha256, image_sha256

    name = segmenter.domain.name
    try:
        image, reading = source.read(segmenter.domain.in_channels)
        result = segmenter.segment(image)
        before = time.perf_counter()
        result.save(target, segmenter.identity)
        seconds = {**result.seconds, "read": reading, "save": time.perf_counter() - before}
        sha256 = {"image": image_sha256(source.path), "output": file_sha256(target)}
    except InputError as error:
        return Outcome(source.path, "failed", name, error=_line(error))
    except (RuntimeError, MemoryError, OSError) as error:  # out of memory, a disk that is full: the next image may do
        return Outcome(source.path, "failed", name, error=f"{source.path}: {type(error).__name__}: {_line(error)}")
    volumes = ", ".join(f"{organ} {volume:.0f} mm³" for organ, volume in result.volumes.items())
    console.print(f"{target}: {volumes} ({sum(seconds.values()):.1f} s)")
    return Outcome(source.path, "done", name, str(target), sha256=sha256, volumes_mm3=result.volumes, seconds=seconds)


def _write_report(
    path: Path,
    segmenters: list[Segmenter],
    bundle: Path,
    models: list[Path],
    flips: bool,
    seconds: dict[str, float],
    outcomes: list[Outcome],
    trusted: dict[str, Any] | None,
) -> None:
    from custom_components.atomic import atomic_path
    from custom_components.inference.report import versions, weights_sha256

    names = [segmenter.domain.name for segmenter in segmenters]
    weights = {str(folder): {k: v for name in names for k, v in weights_sha256(folder, name).items()} for folder in models}
    content: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": str(bundle),
        "domains": names,
        "weights_sha256": weights if len(models) > 1 else next(iter(weights.values())),
        "trusted": trusted,
        "device": str(segmenters[0].device),
        "flips": flips,
        "versions": versions(),
        "seconds": seconds,
        "images": [asdict(outcome) for outcome in outcomes],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _summary(outcomes: list[Outcome]) -> Table:
    classes = list(dict.fromkeys(name for outcome in outcomes for name in outcome.volumes_mm3))
    table = Table(Column("image", overflow="fold"), "result", *(f"{name}, mm³" for name in classes))
    failures = any(outcome.error for outcome in outcomes)
    several = len({outcome.domain for outcome in outcomes} - {None}) > 1
    if failures:
        table.add_column("what is wrong", overflow="fold")
    for outcome in outcomes:
        image = outcome.image if isinstance(outcome.image, str) else ",".join(outcome.image)
        volumes = (f"{outcome.volumes_mm3[name]:.0f}" if name in outcome.volumes_mm3 else "" for name in classes)
        wrong = [outcome.error or ""] if failures else []
        name = Path(image).name or image
        table.add_row(f"{name}, {outcome.domain}" if several else name, outcome.status, *volumes, *wrong)
    return table


def _split(outcomes: list[Outcome]) -> Table:
    """Where the time went, stage by stage."""
    done = [outcome.seconds for outcome in outcomes if outcome.seconds]
    table = Table("stage", Column("s, all images", justify="right"), Column("share", justify="right"))
    total = sum(sum(seconds.values()) for seconds in done)
    for stage in dict.fromkeys(stage for seconds in done for stage in seconds):
        spent = sum(seconds.get(stage, 0.0) for seconds in done)
        table.add_row(stage, f"{spent:.2f}", f"{spent / total:.0%}")
    return table


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    app()
