"""Plan a new domain: measure a data set, say what domain.json should hold and why, and write a bundle that can be trained.

DATASET_DIR is a Decathlon folder: dataset.json (with 'modality', 'labels' and the list 'training'), imagesTr, labelsTr. Every
case is read once. The plan is a table: each field of domain.json, its value, and the measured numbers that it comes from.
Spacing, patch, strides and kernels follow nnU-Net's rules; the rest is the published recipe where the data does not speak
against it.

\b
    1. python scripts/new_domain.py Task06_Lung --name lung_ct --dry-run          look at the plan and its warnings first
    2. ... --merge 2:1                 a tumour (2) counts as its organ (1)
       ... --stray background          label values that dataset.json does not name are no error
       ... --patch-voxels 262144       64³ voxels: for a CPU, or a GPU with little memory; time and memory go with it
       ... --max-steps 3               for a trunk with four levels (it takes one halving less than it has levels)
       ... --set spacing=[1,1,1]       any field; what depends on spacing, crop_margin, patch_size or strides follows
       ... --set sampling.batch_size=4 --set augmentation.mirror.probability=0
    3. python scripts/new_domain.py Task06_Lung --name lung_ct                    writes bundles/lung_ct_segmentation

Bad cases are named one by one, and nothing is written then. In the bundle, docs/plan.md is the table and docs/dataset.png shows
the images with their labels: look whether orientation and labels are what you expect.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from custom_components.errors import InputError

if TYPE_CHECKING:  # torch and MONAI take seconds to import: --help must not wait for them
    from custom_components.data import Dataset
    from custom_components.data.exploration import CaseReport
    from custom_components.domain import Domain
    from custom_components.planning import DatasetFacts, Plan

app = typer.Typer(add_completion=False, rich_markup_mode=None)
console = Console(soft_wrap=True, highlight=False, markup=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)

BUNDLES = Path("bundles")


class Modality(StrEnum):
    MR = "MR"
    CT = "CT"


class Stray(StrEnum):
    refuse = "refuse"
    background = "background"


class BadCases(InputError):
    """Cases that cannot be used, one error each."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("; ".join(messages))
        self.messages = messages


@app.command(help=__doc__)
def new_domain(
    dataset_dir: Annotated[Path, typer.Argument(metavar="DATASET_DIR", help="Decathlon folder.", show_default=False)],
    name: Annotated[str, typer.Option(help="Of the domain: organ and modality, such as lung_ct.", show_default=False)],
    output_dir: Annotated[
        Path | None, typer.Option(help="The bundle's folder; must not exist.", show_default="bundles/NAME_segmentation")
    ] = None,
    organ: Annotated[str | None, typer.Option(help="For people.", show_default="NAME without its modality")] = None,
    modality: Annotated[Modality | None, typer.Option(help="How intensities are read.", show_default="by dataset.json")] = None,
    patch_voxels: Annotated[
        int, typer.Option(min=16**3, help="Most voxels of a patch: 262144 for a CPU; GPU memory goes with it.")
    ] = 128**3,
    max_steps: Annotated[int, typer.Option(min=1, max=8, help="Most halvings of an axis, levels of the trunk less one.")] = 5,
    merge: Annotated[list[str] | None, typer.Option(metavar="FROM:INTO", help="Label value that counts as another.")] = None,
    stray: Annotated[Stray, typer.Option(help="Label values that dataset.json does not name.")] = Stray.refuse,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field's value, as JSON.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cases read at a time, each in a process of its own.")] = 1,
    picture: Annotated[bool, typer.Option(help="Draw docs/dataset.png.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, write nothing.")] = False,
) -> None:
    try:
        target = output_dir or BUNDLES / f"{name}_segmentation"
        _check_name(name)
        if not dry_run:
            _check_free(name, target)
        from custom_components.data import read_dataset
        from custom_components.data.agreement import check_agreement
        from custom_components.planning import facts_of, parse_merges, parse_overrides, plan_domain
        from custom_components.planning.classes import check_merges, plan_modality

        overrides, merges = parse_overrides(set_ or []), parse_merges(merge or [])
        dataset = read_dataset(dataset_dir)
        # What needs no image is told before they are read.
        check_merges(merges, dataset.labels)
        plan_modality(dataset.task, dataset.channels, overrides.get("modality") or (modality.value if modality else None))
        reports = _measure(dataset, jobs, merges)
        facts = facts_of(dataset, reports, merges)
        plan = plan_domain(
            facts,
            name,
            organ=organ,
            modality=modality.value if modality else None,
            patch_voxels=patch_voxels,
            max_steps=max_steps,
            stray=stray.value,
            overrides=overrides,
        )
        check_agreement(plan.domain, dataset)  # what --set says can contradict dataset.json
        size = _network_size(plan.domain)
        console.print(_table(plan))
        console.print(size)
        for warning in plan.warnings:
            errors.print(f"Warning: {warning}", style="yellow")
        if dry_run:
            console.print("Nothing written (--dry-run).")
            return
        _write(target, plan, facts, dataset, reports, picture)
        console.print(_next(target, dataset_dir, picture))
    except BadCases as bad:
        for message in bad.messages:
            errors.print(f"Error: {' '.join(message.split())}", style="red")
        errors.print(f"Error: {len(bad.messages)} of the cases cannot be used; nothing was written", style="red")
        raise typer.Exit(1) from None
    except InputError as error:
        errors.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        raise InputError(f"--name {name}: lower-case letters, digits and underscores are allowed, a letter first, 64 at most")
    from custom_components.domain_parts import check_free_name

    try:
        check_free_name(name)
    except ValueError as error:
        raise InputError(f"--name {name}: {error}") from None


def _check_free(name: str, target: Path) -> None:
    """That nothing of this name is there, before hours of reading."""
    if target.exists():
        raise InputError(f"{target}: exists already; choose another --output-dir or --name, or remove it")
    from custom_components.domain import Domain

    for path in sorted({*BUNDLES.glob("*/configs/domain.json"), *target.parent.glob("*/configs/domain.json")}):
        if Domain.from_file(path).name == name:
            raise InputError(f"--name {name}: {path.parents[1]} is a bundle of that domain already; choose another name")


def _measure(dataset: Dataset, jobs: int, merges: dict[int, int]) -> list[CaseReport]:
    from custom_components.data.exploration import CaseReport, describe_cases

    reports: list[CaseReport] = []
    bad: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors) as progress:
        results = describe_cases(dataset, jobs, merges)
        for result in progress.track(results, total=len(dataset.cases), description=escape(dataset.task)):
            if isinstance(result, CaseReport):
                reports.append(result)
            else:
                bad.append(str(result))
    if bad:
        raise BadCases(bad)
    return reports


def _network_size(domain: Domain) -> str:
    """What the domain owns in a network, built without memory; an error where torch cannot build it."""
    import torch

    from custom_components.networks import U2Net

    channels = [16 * 2**level for level in range(len(domain.strides) + 1)]
    try:
        with torch.device("meta"):
            network = U2Net({domain.name: domain.network}, channels=[min(c, 512) for c in channels], deep_supervision="heads")
    except ValueError as error:
        raise InputError(f"plan of {domain.name}: {error}") from None
    own = sum(p.numel() for p in network.domains.parameters())
    shared = sum(p.numel() for p in network.trunk.parameters())
    return f"With widths {', '.join(str(min(c, 512)) for c in channels)}: adapter {own} parameters, trunk {shared}."


def _table(plan: Plan) -> Table:
    from custom_components.planning import value_text

    table = Table(Column("field", no_wrap=True), Column("value", overflow="fold"), Column("why", overflow="fold", ratio=1))
    table.title = f"Plan of {plan.domain.name}"
    for reason in plan.reasons:
        table.add_row(reason.field, value_text(reason.value), reason.why)
    return table


def _write(target: Path, plan: Plan, facts: DatasetFacts, dataset: Dataset, reports: list[CaseReport], picture: bool) -> None:
    """The whole bundle under a temporary folder, then one rename: it is there whole or not at all."""
    from custom_components.atomic import atomic_path
    from custom_components.bundles import write_bundle
    from custom_components.planning import plan_markdown

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new_domain_", dir=target.parent) as temporary:
            folder = Path(temporary) / target.name  # its own name, which the bundle's files hold
            write_bundle(plan.domain, folder, dataset=dataset.task)
            if picture:
                from custom_components.data.pictures import draw_dataset  # matplotlib only where it is needed

                draw_dataset(folder / "docs" / "dataset.png", dataset, reports)
            with atomic_path(folder / "docs" / "plan.md") as path:
                path.write_text(plan_markdown(plan, facts, "dataset.png" if picture else None), encoding="utf-8")
            folder.rename(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); choose a folder you may write to") from None


def _next(target: Path, dataset_dir: Path, picture: bool) -> str:
    """What to do with the bundle."""
    bundle, data = shlex.quote(str(target)), shlex.quote(str(dataset_dir))
    run = "python -m monai.bundle run --config_file"
    rest = f"--bundle_root {bundle} --dataset_dir {data}"
    configs = f"{bundle}/configs"
    look = "docs/plan.md and docs/dataset.png" if picture else "docs/plan.md"
    return (
        f"Written: {target}. Look at {look} in it. Then train a network of its own:\n"
        f"{run} {configs}/train.json {rest}\n"
        "or only its adapter, on a trunk that is trained already and stays as it is:\n"
        f"{run} \"['{configs}/train.json','{configs}/adapt.json']\" {rest} --trunk TRUNK.safetensors"
    )


if __name__ == "__main__":
    app()
