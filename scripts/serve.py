"""Serve the bundles with MONAI Label, so that 3D Slicer and OHIF label images with them, and train on what people correct.

Images are the files in --studies (NIfTI or NRRD, no sub-folders); submitted labels are kept in its folder labels/final. With
the address of a DICOMweb server in place of the folder, images and labels stay there. Every bundle that has weights is
offered; those that have none, or whose weights do not fit, are named and left out.

An adapter that is trained from the server goes into a copy of its bundle in --state-dir; bundles as shipped are not written
to. Stop the server with Ctrl+C: a restart with the same folders has the same images, labels and adapters.

Examples:

    bash scripts/serve.sh --studies ~/images

    bash scripts/serve.sh --studies ~/images --bundle hippocampus_mri_segmentation --port 8001

    bash scripts/serve.sh --studies http://127.0.0.1:8042/dicom-web

Then, in 3D Slicer: module MONAI Label, server http://127.0.0.1:8000. See docs/monai_label.md for OHIF, authentication, limits.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from custom_components.errors import InputError

app = typer.Typer(add_completion=False)
console = Console(soft_wrap=True, highlight=False, markup=False)
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "custom_components" / "label_app"
AUTHENTICATION = "MONAI_LABEL_AUTH_ENABLE"


@app.command(help=__doc__)
def serve(
    studies: Annotated[str, typer.Option(help="Folder of images, made if missing, or a DICOMweb address.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    bundle: Annotated[
        list[str] | None, typer.Option(help="Offer this bundle only; can be given several times. All, if not given.")
    ] = None,
    bundles_dir: Annotated[Path, typer.Option(help="Folder with the bundles.", show_default="bundles")] = ROOT / "bundles",
    state_dir: Annotated[
        Path, typer.Option(help="Where trained adapters and the log are kept.", show_default="runs/label")
    ] = ROOT / "runs" / "label",
    origin: Annotated[
        list[str] | None, typer.Option(help="A web page that may use the server besides its own, such as an OHIF elsewhere.")
    ] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Key of the certificate, for https.")] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate, for https.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Print what would be served, and end.")] = False,
) -> None:
    try:
        remote = studies.startswith(("http://", "https://"))
        if not remote and Path(studies).exists() and not Path(studies).is_dir():
            raise InputError(f"{studies}: is no folder; give the folder that the images are in")
        others = [_checked_origin(one) for one in origin or []]
        names = _print_bundles(bundles_dir, state_dir, bundle or [])
        if list_only:
            return
        _check_installed()
        home = _app_folder(state_dir)
    except InputError as error:
        errors.print(f"Error: {' '.join(str(error).split())}", style="red")
        raise typer.Exit(1) from None
    if not _is_loopback(host) and os.environ.get(AUTHENTICATION, "").lower() not in ("1", "true", "yes", "on"):
        errors.print(
            f"Warning: {host} lets other machines in, and authentication is off: whoever reaches port {port} can read, change "
            "and delete images and labels. See docs/monai_label.md.",
            style="yellow",
        )
    scheme = "https" if ssl_certfile else "http"
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(home)]
    command += ["--studies", studies if remote else str(Path(studies).expanduser().resolve())]
    command += ["--host", host, "--port", str(port)]
    command += ["--uvicorn_app", "custom_components.label_app.server:app"]
    own = [f"{scheme}://{_in_address(name)}:{port}" for name in dict.fromkeys([host, "127.0.0.1", "localhost"])]
    conf: dict[str, object] = {"bundles_dir": bundles_dir.resolve(), "state_dir": state_dir.resolve(), "models": ",".join(names)}
    conf["origins"] = ",".join(own + others)
    if _is_loopback(host):  # else other machines call it by names that are not known here
        named = [str(urlsplit(one).hostname) for one in others]  # a proxy may pass its own name on
        conf["hosts"] = ",".join(dict.fromkeys([host, "127.0.0.1", "localhost", "::1", *named]))
    for key, value in conf.items():
        command += ["--conf", key, str(value)]
    for option, file in (("--ssl_keyfile", ssl_keyfile), ("--ssl_certfile", ssl_certfile)):
        command += [option, str(file.resolve())] if file else []
    console.print(f"Server: {scheme}://{_in_address(host)}:{port} (3D Slicer's module MONAI Label wants this address)")
    os.execve(sys.executable, command, _environment())


def _print_bundles(bundles_dir: Path, state_dir: Path, names: list[str]) -> list[str]:
    """What is offered and what is not; the names of the former."""
    from custom_components.label_app.collection import Collection  # imports torch, which --help must not wait for
    from custom_components.label_app.own_copy import differs_from_shipped

    served, left_out = Collection(bundles_dir, state_dir, names).split()
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("bundle", overflow="fold")
    table.add_column("domains", overflow="fold")
    for one in served:
        added = one.domains().keys() - one.shipped_domains().keys()
        table.add_row(one.name, ", ".join(f"{name} (trained here)" if name in added else name for name in one.domains()))
    console.print(table)
    for name, why in left_out.items():
        errors.print(f"Left out: {name}: {' '.join(why.split())}", style="yellow")
    for one in served:
        if differs_from_shipped(one):
            errors.print(
                f"Note: {one.name}: another trunk was shipped since adapters were trained on the earlier one in {one.own}; the "
                "earlier one is served. Move that folder away to serve the new one.",
                style="yellow",
            )
    if not served or (names and left_out):
        raise InputError(f"{bundles_dir}: {'the bundle asked for' if names else 'no bundle'} can be served; see above")
    return [one.name for one in served]


def _check_installed() -> None:
    from importlib.util import find_spec

    if find_spec("monailabel") is None:
        raise InputError("MONAI Label is not installed in this environment; start with: bash scripts/serve.sh")


def _app_folder(state_dir: Path) -> Path:
    """MONAI Label writes its log and empty folders into the app's folder: so it gets one of its own."""
    from custom_components.atomic import atomic_path

    home = state_dir.resolve() / "app"
    with atomic_path(home / "main.py") as path:
        path.write_text((APP / "main.py").read_text(encoding="utf-8"), encoding="utf-8")
    return home


def _checked_origin(text: str) -> str:
    """As browsers write it, without a slash at its end."""
    from custom_components.label_app.callers import parse_origin

    if parse_origin(text) is None:
        raise InputError(
            f"--origin {text}: is no web page's origin; give scheme, name and port, such as http://ohif.example:3000"
        )
    return text.rstrip("/")


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]  # for the processes that train, too
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


if __name__ == "__main__":
    app()
