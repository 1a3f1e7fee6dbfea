"""Before segmenting with a bundle of somebody else's: that the files which will be read are those that its manifest lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from custom_components.errors import InputError
from custom_components.inference.bundle_domains import bundle_domains
from custom_components.sharing.manifest import MANIFEST_FILE
from custom_components.sharing.verify import check_file, signed_manifest
from custom_components.weights.adapters import TRUNK_FILE

__all__ = ["check_trusted"]


def check_trusted(bundle_dir: str | Path, domains: Sequence[str], public_key: str | Path | None = None) -> dict[str, Any]:
    """Ask that trunk, adapters and descriptions of some domains be as the manifest has them.

    Other files of the bundle are not read: they take no part in segmenting.

    Args:
        bundle_dir: the bundle's folder.
        domains: names.
        public_key: PEM file of who must have signed the manifest; None asks for no signature.

    Returns:
        For a report: SHA-256 of the manifest, who signed it, and the files that were checked.

    Raises:
        InputError: there is no manifest or it is not signed by this key, or a file is not in it, missing or changed.
    """
    folder = Path(bundle_dir)
    manifest, sha256, signed_by = signed_manifest(folder, public_key)
    described = bundle_domains(folder)
    needed = [f"models/{TRUNK_FILE}"]
    for name in domains:
        needed += [described[name].relative_to(folder).as_posix(), f"models/{name}.safetensors"]
    listed = manifest.by_path
    for path in needed:
        if path not in listed:
            raise InputError(f"{folder / path}: is not in the manifest ({MANIFEST_FILE}); get the bundle again")
        check_file(folder, listed[path])
    return {"manifest_sha256": sha256, "signed_by": signed_by, "files": {path: listed[path].sha256 for path in needed}}
