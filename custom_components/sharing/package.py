"""A bundle's folder → one zip that works where nothing of this project is: with its code, its licences and a manifest.

Equal input gives equal bytes. The zip has one folder, as ``monai.bundle download`` expects; in it lie the bundle, the package
``custom_components`` (MONAI's ``run`` and MONAI Label look for modules in a bundle's root), ``segment.py``, the versions to
install and a README.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

import custom_components
from custom_components.archives.archive import write_archive
from custom_components.atomic import atomic_path
from custom_components.bundles.facts import UNKNOWN
from custom_components.errors import InputError
from custom_components.inference.report import file_sha256
from custom_components.sharing.beside import README, REQUIREMENTS, readme_text, requirements_text
from custom_components.sharing.contents import METADATA, domain_entries, trunk_of
from custom_components.sharing.large_files import LARGE, LARGE_FILES, LargeFile, large_files_text, read_large_files
from custom_components.sharing.manifest import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    FileEntry,
    Licence,
    Manifest,
    Provenance,
)
from custom_components.sharing.verify import Verification, verify_folder
from custom_components.weights.adapters import MODEL_FILE, TRUNK_FILE
from custom_components.weights.bundle_files import list_adapters, models_of
from custom_components.weights.notes import bundle_licence

__all__ = ["Package", "package_bundle"]

PROJECT = "u2net-monai"
CODE_LICENCE = "Apache-2.0"
ROOT = Path(custom_components.__file__).parents[1]
PROGRAM = "segment.py"
MADE = {README, REQUIREMENTS, PROGRAM, custom_components.__name__}
"""What packaging puts beside a bundle; a file of this name in it stays at home."""
CODE = {".py", ".json", ".cu", ".typed", ".md", ".txt", ".conf", ""}
BLOCK = 2**20


@dataclass(frozen=True)
class Package:
    """What was made.

    Attributes:
        path: the zip.
        manifest: what is in it.
        left_out: large files that are not in it.
        check: of the very files that are in it.
    """

    path: Path
    manifest: Manifest
    left_out: tuple[str, ...]
    check: Verification


def package_bundle(
    bundle_dir: str | Path,
    output_dir: str | Path,
    *,
    sign: Ed25519PrivateKey | None = None,
    weights_licence: str | None = None,
    large_files_url: str | None = None,
    leave_out_large: bool = False,
    root: Path = ROOT,
) -> Package:
    """Write ``<output_dir>/<name>_v<version>.zip``.

    Args:
        bundle_dir: the bundle; its folder's name is its name.
        output_dir: made if missing.
        sign: signs the manifest.
        weights_licence: of the weights; None takes it from ``docs/facts.json`` or from the adapters' headers.
        large_files_url: where weights over 25 MB will be had, the folder; None where ``large_files.yml`` says so already.
        leave_out_large: these weights are listed but not put into the zip.
        root: the repository, with ``requirements.txt`` and ``scripts/segment.py``.

    Raises:
        InputError: the folder is no bundle with trained weights, its files do not agree, its licence or the place of its
            large files is not known, or the zip cannot be written. Nothing is left then.
    """
    bundle = Path(bundle_dir).resolve()
    with tempfile.TemporaryDirectory(prefix=".package.") as temporary:
        staged = Path(temporary) / bundle.name
        try:
            _stage(bundle, staged, root)
            large = _list_large(staged, large_files_url)
            manifest = _manifest(bundle, staged, large, weights_licence, root)
            (staged / MANIFEST_FILE).write_bytes(manifest.to_bytes())
            if sign is not None:
                (staged / SIGNATURE_FILE).write_bytes(sign.sign(manifest.to_bytes()))
            check = verify_folder(staged)
            if check.errors:
                raise InputError(check.errors[0].replace(str(staged), str(bundle)))
            left_out = tuple(large) if leave_out_large else ()
            files = {path.relative_to(staged).as_posix(): path for path in staged.rglob("*") if path.is_file()}
            packed = {name: path for name, path in files.items() if name not in left_out}
            target = Path(output_dir) / f"{manifest.name}_v{manifest.version}.zip"
            with atomic_path(target) as whole:
                write_archive(whole, manifest.name, packed)
        except OSError as error:
            raise InputError(f"{error.filename or bundle}: cannot be read or written ({error.strerror})") from None
    return Package(target, manifest, left_out, check)


def _stage(bundle: Path, staged: Path, root: Path) -> None:
    """Copy what a receiver needs, and nothing that a training or a run has left."""
    models = models_of(bundle)
    if not (models / TRUNK_FILE).is_file():
        raise InputError(f"{models / TRUNK_FILE}: no such file; only a bundle with trained weights can be packaged")
    names = ["LICENSE", METADATA, "configs/inference.json", "docs/data_license.txt", f"models/{MODEL_FILE}"]
    for name in names:
        if not (bundle / name).is_file():
            raise InputError(f"{bundle / name}: no such file; a bundle that is shared needs {', '.join(names)}")
    wanted = {"LICENSE", LARGE_FILES, f"models/{TRUNK_FILE}", f"models/{MODEL_FILE}"}
    wanted |= {f"models/{adapter.path.name}" for adapter in list_adapters(bundle)}
    sources = {name: bundle / name for name in wanted if (bundle / name).is_file()}
    for folder in ("configs", "docs"):
        sources |= {path.relative_to(bundle).as_posix(): path for path in _files(bundle / folder)}
    package = Path(custom_components.__file__).parent
    sources |= {f"{package.name}/{path.relative_to(package).as_posix()}": path for path in _files(package) if path.suffix in CODE}
    sources[PROGRAM] = root / "scripts" / PROGRAM
    for name, source in sources.items():
        target = staged / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (staged / REQUIREMENTS).write_text(requirements_text(root / REQUIREMENTS), encoding="utf-8")
    readme = readme_text(staged.name, _object(staged / METADATA), domain_entries(staged), trunk_of(staged))
    (staged / README).write_text(readme, encoding="utf-8")


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_symlink():
            raise InputError(f"{path}: is a link; put the file itself there before the bundle is packaged")
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _list_large(staged: Path, url: str | None) -> list[str]:
    """Write ``large_files.yml`` where it is needed, or check the one that is there."""
    listed = read_large_files(staged)
    sizes = {path.relative_to(staged).as_posix(): path.stat().st_size for path in (staged / "models").iterdir()}
    large = sorted(name for name, size in sizes.items() if size > LARGE)
    if url is not None:
        listed = {}
        for name in large:
            place = f"{url.rstrip('/')}/{Path(name).name}"
            listed[name] = _large_file(name, place, staged)
        if listed:
            (staged / LARGE_FILES).write_text(large_files_text(listed.values()), encoding="utf-8")
        else:
            (staged / LARGE_FILES).unlink(missing_ok=True)
    for name in large:
        if name not in listed:
            raise InputError(
                f"{name}: has {sizes[name]} bytes, and weights over {LARGE} must be listed in {LARGE_FILES}; "
                "say where they will be had with --large-files-url"
            )
    for name, entry in listed.items():
        if name not in sizes or entry.hash_val != file_sha256(staged / name):
            raise InputError(
                f"{LARGE_FILES}: {name} is missing or has another SHA-256; remove the list, or give --large-files-url"
            )
    return sorted(listed)


def _large_file(name: str, url: str, staged: Path) -> LargeFile:
    try:
        return LargeFile(path=name, url=url, hash_val=file_sha256(staged / name), hash_type="sha256")
    except ValidationError:
        raise InputError(f"{url}: is no address; --large-files-url begins with https://") from None


def _manifest(bundle: Path, staged: Path, large: list[str], weights_licence: str | None, root: Path) -> Manifest:
    metadata = _object(staged / METADATA)
    paths = sorted(path for path in staged.rglob("*") if path.is_file())
    names = {path.relative_to(staged).as_posix(): path for path in paths}
    files = tuple(
        FileEntry(path=name, size=path.stat().st_size, sha256=file_sha256(path), large=name in large)
        for name, path in names.items()
    )
    own = [bundle / name for name in names if name.split("/")[0] not in MADE and (bundle / name).is_file()]
    commit, modified = _commit(
        root, own, [bundle, *(root / name for name in (custom_components.__name__, f"scripts/{PROGRAM}", REQUIREMENTS))]
    )
    versions = {
        "monai": metadata.get("monai_version"),
        "torch": metadata.get("pytorch_version"),
        "numpy": metadata.get("numpy_version"),
    }
    packages = {**versions, **metadata.get("required_packages_version", {})}
    try:
        return Manifest(
            name=bundle.name,
            version=str(metadata.get("version", "")),
            trunk=trunk_of(staged),
            domains=domain_entries(staged),
            licence=Licence(code=CODE_LICENCE, weights=weights_licence or _weights_licence(bundle)),
            provenance=Provenance(
                project=PROJECT,
                project_version=custom_components.__version__,
                commit=commit,
                modified=modified,
                packages={name: str(version) for name, version in sorted(packages.items()) if version},
            ),
            files=files,
        )
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        raise InputError(
            f"{bundle}: {'.'.join(map(str, item['loc']))}: {item['msg']}; see its folder's name and {METADATA}"
        ) from None


def _weights_licence(bundle: Path) -> str:
    facts = bundle / "docs" / "facts.json"
    if facts.is_file():
        said = {bundle_licence(bundle)}
    else:
        said = {adapter.header.licence for adapter in list_adapters(bundle)}
    if len(said) == 1 and (licence := said.pop()) and licence != UNKNOWN:
        return licence
    raise InputError(f"{bundle}: does not say the licence of its weights; give it with --weights-licence, such as 'CC-BY-SA 4.0'")


def _commit(root: Path, own: list[Path], used: list[Path]) -> tuple[str | None, bool | None]:
    """The checkout's commit, and whether what was used differs from it; None where there is no checkout.

    Args:
        root: of the checkout.
        own: files of the bundle, all of which must be in the commit: git's status is silent on what it ignores or lies elsewhere.
        used: files and folders.
    """
    root = root.resolve()
    inside = [str(path) for path in used if path.is_relative_to(root)]
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != root:  # some other project's
            return None, None
        commit, changed = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--", *inside)
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(changed) or not _tracked(root, own)


def _tracked(root: Path, files: list[Path]) -> bool:
    if not all(path.is_relative_to(root) for path in files):
        return False
    try:
        _git(root, "--literal-pathspecs", "ls-files", "--error-unmatch", "--", *map(str, files))
    except subprocess.CalledProcessError:
        return False
    return True


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold one JSON object")
    return values
