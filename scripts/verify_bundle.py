"""Verify a bundle that somebody gave you: whole, unchanged, of the trunk you know, safe to load, signed by whom you trust.

    python scripts/verify_bundle.py hippocampus_mri_segmentation_v0.2.0.zip

    python scripts/verify_bundle.py BUNDLE.zip --public-key release.pub.pem --unpack verified --report verified.json

    python scripts/verify_bundle.py verified/hippocampus_mri_segmentation --trunk FINGERPRINT

Nothing of the bundle is run: no expression is evaluated, no module imported, nothing unpickled. Exits with 1, and one line for
each thing that is wrong; nothing is unpacked then. Lines that begin with "note" say what a person should know, among them all
code that is not this project's: read it before MONAI's tools run the bundle. --only-known-code refuses such a bundle.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from custom_components.errors import InputError

if TYPE_CHECKING:  # torch takes seconds to import: --help must not wait for it
    from custom_components.sharing.verify import Verification

app = typer.Typer(add_completion=False)
console = Console(soft_wrap=True, highlight=False, markup=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


@app.command(help=__doc__)
def verify_bundle(
    bundle: Annotated[
        Path, typer.Argument(metavar="ZIP_OR_FOLDER", help="A packaged bundle, or its folder.", show_default=False)
    ],
    trunk: Annotated[str | None, typer.Option(metavar="FINGERPRINT", help="64 digits that its trunk must have.")] = None,
    public_key: Annotated[Path | None, typer.Option(metavar="KEY", help="Public key (PEM) of who must have signed.")] = None,
    signature: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The signature, where it is not in the bundle (manifest.json.sig).")
    ] = None,
    unpack: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Unpack a verified zip to DIR/NAME, with the --signature.")
    ] = None,
    allow_absent_large: Annotated[
        bool, typer.Option("--allow-absent-large", help="Weights that large_files.yml lists may be absent.")
    ] = False,
    only_known_code: Annotated[
        bool, typer.Option("--only-known-code", help="Refuse code and configurations that are not this project's.")
    ] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was found as JSON.")] = None,
) -> None:
    from custom_components.atomic import atomic_path
    from custom_components.inference import check_output_dir
    from custom_components.sharing.verify import Verification, verify_folder

    found = Verification(str(bundle))
    try:
        if report is not None:
            check_output_dir(report.parent)
    except InputError as error:
        errors.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None
    try:
        with _opened(bundle, unpack) as folder, _progress() as progress:
            task = progress.add_task("reading")
            found = verify_folder(
                folder,
                trunk=trunk,
                public_key=public_key,
                signature=signature,
                absent_large=allow_absent_large,
                advance=lambda name: progress.update(task, description=name),
            )
            _rename(found, folder, bundle, only_known_code)
            if found.verified and unpack is not None:
                if signature is not None:  # segment.py --trusted-only looks for it in the bundle
                    _keep_signature(signature, folder, public_key)
                os.rename(folder, unpack / folder.name)
    except InputError as error:
        found.errors.append(str(error))
    except OSError as error:
        found.errors.append(f"{error.filename or bundle}: {error.strerror}")
    _say(found)
    if report is not None:
        with atomic_path(report) as temporary:
            temporary.write_text(json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not found.verified:
        raise typer.Exit(1)
    if unpack is not None and found.manifest is not None:
        console.print(f"unpacked: {unpack / found.manifest.name}")


@contextmanager
def _opened(bundle: Path, unpack: Path | None) -> Iterator[Path]:
    """The folder to look at: the one given, or the zip unpacked for the time of looking."""
    from custom_components.archives.archive import read_archive, unpacked

    if bundle.is_dir():
        if unpack is not None:
            raise InputError(f"{bundle}: is a folder already; --unpack is for a zip")
        yield bundle
        return
    if unpack is not None and (target := unpack / read_archive(bundle).base).exists():
        raise InputError(f"{target}: exists already; choose another folder to unpack to")
    with unpacked(bundle, unpack) as folder:
        yield folder


def _keep_signature(signature: Path, folder: Path, public_key: Path | None) -> None:
    from custom_components.sharing.manifest import SIGNATURE_FILE
    from custom_components.sharing.verify import signed_manifest

    shutil.copyfile(signature, folder / SIGNATURE_FILE)
    signed_manifest(folder, public_key)  # of what was copied: the file may be another by now


def _rename(found: Verification, folder: Path, bundle: Path, only_known_code: bool) -> None:
    """Say the zip's name where the temporary folder's stands, and what is more than a note."""
    if not bundle.is_dir():
        if found.manifest is not None and found.manifest.name != folder.name:
            found.errors.append(f"{bundle}: its folder is {folder.name}, its manifest says {found.manifest.name}; get it again")
        found.bundle = str(bundle)
        found.errors = [line.replace(str(folder.parent) + os.sep, f"{bundle}, ") for line in found.errors]
        found.notes = [line.replace(str(folder.parent) + os.sep, f"{bundle}, ") for line in found.notes]
    if only_known_code:
        found.errors += found.code


def _say(found: Verification) -> None:
    for note in dict.fromkeys([*found.notes, *found.code]):
        if note not in found.errors:
            errors.print(f"note: {' '.join(note.split())}")
    for error in found.errors:
        errors.print(f"Error: {' '.join(error.split())}", style="red")
    if found.verified and found.manifest is not None:
        manifest = found.manifest
        signed = f"signed by key {found.signed_by}" if found.signed_by else "signature not checked"
        console.print(f"verified: {manifest.name} {manifest.version}, {len(manifest.files)} files, {signed}")
        console.print(f"domains {', '.join(domain.name for domain in manifest.domains)}; trunk {manifest.trunk}")
        console.print(f"licences: code {manifest.licence.code}, weights {manifest.licence.weights}")


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    # Where nobody watches it would leave an empty line.
    return Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)


if __name__ == "__main__":
    app()
