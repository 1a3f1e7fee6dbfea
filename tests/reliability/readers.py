"""Everything that reads a stranger's file: how such files are made and damaged, how they are read, and what must hold.

A refusal must be an `InputError` with one printable line that names the file. What is accepted must be what it claims to be.
Nothing may be left behind by a refusal.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom_components.archives.archive import unpacked, write_archive
from custom_components.bundles import Facts
from custom_components.data import datalist, read_dataset, read_image, read_label
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.inference import Segmenter
from custom_components.networks import U2Net, fingerprint
from custom_components.sharing.large_files import LargeFile, large_files_text, read_large_files
from custom_components.sharing.manifest import parse_manifest, read_manifest
from custom_components.weights import import_original, load_network, read_tensors, save_bundle_weights
from custom_components.weights.bundle_changes import import_adapter
from custom_components.weights.model_file import read_model_file
from tests.phantoms import affine_of, decathlon, hippocampus_like, save_dicom_series, save_itk, save_nifti
from tests.reliability.mutations import (
    change_bytes,
    change_gzip,
    change_json,
    change_nifti,
    change_safetensors,
    change_text_header,
    change_zip,
)
from tests.weights.bundles import PLAN, bundle_of, domain, randomised

__all__ = ["READERS", "Reader", "Session"]

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "hippocampus_mri_segmentation"
LONGEST_MESSAGE = 2500

Change = Callable[[bytes, random.Random], bytes]
Files = Mapping[str, bytes]


class Wrong(Exception):
    """A file was accepted that is not what it claims to be."""


@dataclass(frozen=True)
class Reader:
    """One way for a stranger's file into the project.

    Attributes:
        name: for people.
        make: writes the files of one sample into a folder; several samples.
        changes: name of the file that is changed (an ending) to how; one is drawn.
        read: reads the folder, raises `Wrong` where it accepts what it must not.
    """

    name: str
    make: Callable[[Path], Iterable[Path]]
    changes: Mapping[str, Change]
    read: Callable[[Path, Path], Any]
    blames: str = ""
    """What every message must contain: the damaged file's name where this is empty."""

    def open(self, folder: Path) -> Session:
        samples = []
        for index, sample in enumerate(self.make(folder / "samples")):
            files = {str(p.relative_to(sample)): p.read_bytes() for p in sorted(sample.rglob("*")) if p.is_file()}
            assert files, f"sample {index} of {self.name} is empty"
            samples.append(files)
        return Session(self, samples, folder / "input")


@dataclass
class Session:
    """A reader with its samples in memory."""

    reader: Reader
    samples: list[Files]
    folder: Path
    written: dict[str, bytes] = field(default_factory=dict)

    def run(self, index: int, seed: int, unchanged: bool = False) -> tuple[str, str]:
        """Read input number ``index``: the outcome's name, and a detail."""
        name, files = self.input(index, seed, unchanged)
        self._write(files)
        place = self.folder / name
        try:
            self.reader.read(self.folder, place)
        except InputError as error:
            return self._refused(error, place, files)
        except Wrong as error:
            return "wrong", str(error)
        except MemoryError:
            return "memory", "MemoryError"
        except Exception as error:
            return "undeclared", f"{type(error).__name__}: {error}"
        finally:
            self.written = {}
        return "accepted", ""

    def input(self, index: int, seed: int, unchanged: bool = False) -> tuple[str, Files]:
        """The damaged file's name, and all files."""
        rng = random.Random(f"{self.reader.name} {seed} {index}")
        files = dict(rng.choice(self.samples))
        choices = [(name, how) for name in files for end, how in self.reader.changes.items() if name.endswith(end)]
        name, change = rng.choice(choices)
        if not unchanged:
            files[name] = change(files[name], rng)
        return name, files

    def _refused(self, error: InputError, place: Path, files: Files) -> tuple[str, str]:
        message = str(error)
        kind = type(error).__name__
        try:
            message.encode("utf-8")
        except UnicodeEncodeError:
            return "message", f"{kind} cannot be printed: {message!r}"
        if len(message) > LONGEST_MESSAGE or any(not c.isprintable() for c in message):
            return "message", f"{kind} is no line to print ({len(message)} characters): {message[:200]!r}"
        if (self.reader.blames or str(self.folder)) not in message:
            return "message", f"{kind} names no file: {message}"
        there = {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}
        if there != set(files) or any((self.folder / name).read_bytes() != content for name, content in files.items()):
            return "left behind", f"after {message[:100]}: {sorted(there ^ set(files)) or 'a file was changed'}"
        return kind, message

    def _write(self, files: Files) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


# ---- descriptions


def _domains(folder: Path) -> Iterable[Path]:
    for source in sorted((ROOT / "bundles").glob("*/configs/domain.json")):
        sample = folder / source.parents[1].name
        sample.mkdir(parents=True)
        shutil.copy(source, sample / "domain.json")
        yield sample


def _read_domain(folder: Path, place: Path) -> None:
    described = Domain.from_file(place)
    if Domain.from_dict(json.loads(described.to_json())) != described:
        raise Wrong("written and read again it is another")
    if not described.to_json().encode("utf-8"):
        raise Wrong("cannot be written")
    # A description that is accepted can be built: without memory, in a moment, or it is refused in one line.
    widths = [4] * (len(described.strides) + 1)
    with torch.device("meta"):
        U2Net({"x": described.network}, channels=widths)
    if np.prod([float(n) for n in described.patch_size]) > 2**31:
        raise Wrong(f"a patch of {described.patch_size} voxels fits no machine")


def _facts(folder: Path) -> Iterable[Path]:
    for source in sorted((ROOT / "bundles").glob("*/docs/facts.json"))[:4]:
        sample = folder / source.parents[1].name
        sample.mkdir(parents=True)
        shutil.copy(source, sample / "facts.json")
        yield sample


def _read_facts(folder: Path, place: Path) -> None:
    facts = Facts.from_file(place)
    if Facts.from_dict(json.loads(json.dumps(facts.model_dump(mode="json"))), "facts") != facts:
        raise Wrong("written and read again they are others")


def _datasets(folder: Path) -> Iterable[Path]:
    for channels in (1, 2):
        root = decathlon(folder / str(channels), cases=6, channels=channels, shape=(4, 5, 6))
        for path in root.rglob("*.nii.gz"):  # what is in them is another reader's task
            path.write_bytes(b"image")
        folds = {f"fold{k}": {"train": [f"phantom_{i:03d}" for i in range(4)], "val": ["phantom_005"]} for k in range(2)}
        (root / "folds.json").write_text(json.dumps(folds))
        yield root


def _read_dataset(folder: Path, place: Path) -> None:
    dataset = read_dataset(folder)
    listed = [Path(f) for case in dataset.cases for f in ([case["image"]] if isinstance(case["image"], str) else case["image"])]
    if not all(Path(case["label"]).is_file() for case in dataset.cases) or not all(path.exists() for path in listed):
        raise Wrong("lists a file that is none")
    names = [case["case"] for case in dataset.cases]
    if len(set(names)) != len(names) or any("/" in name or not name for name in names):
        raise Wrong(f"names of cases: {names}")
    train, val = (datalist(folder, side, folds=folder / "folds.json") for side in ("training", "validation"))
    if {case["case"] for case in train} & {case["case"] for case in val}:
        raise Wrong("a case on both sides")


# ---- images


def _image() -> np.ndarray:
    return hippocampus_like((12, 14, 11), noise=5)[0]


def _niftis(folder: Path) -> Iterable[Path]:
    image, affine = _image(), affine_of((1.5, 1, 2), (10, 0, 5), (3, -4, 5), flips=(-1, 1, 1))
    for kind in (np.float32, np.int16, np.uint8):
        save_nifti(folder / kind.__name__ / "image.nii", image.astype(kind), affine)
        yield folder / kind.__name__


def _packed_niftis(folder: Path) -> Iterable[Path]:
    for sample in _niftis(folder):
        (sample / "image.nii.gz").write_bytes(gzip.compress((sample / "image.nii").read_bytes(), mtime=0))
        (sample / "image.nii").unlink()
        yield sample


def _itk(suffix: str) -> Callable[[Path], Iterable[Path]]:
    def make(folder: Path) -> Iterable[Path]:
        for kind in (np.float32, np.int16):
            save_itk(folder / kind.__name__ / f"image{suffix}", _image().astype(kind), affine_of((1.5, 1, 2), (10, 0, 5)))
            yield folder / kind.__name__

    return make


def _series(folder: Path) -> Iterable[Path]:
    sample = folder / "series"
    save_dicom_series(sample / "dicom", hippocampus_like((9, 8, 5))[0], affine_of((1.5, 1, 2)))
    yield sample


def _read_image(folder: Path, place: Path) -> None:
    _must_be_image(read_image(place))


def _read_series(folder: Path, place: Path) -> None:
    _must_be_image(read_image(folder / "dicom"))


def _must_be_image(image: Any) -> None:
    if image.ndim != 4 or image.dtype != torch.float32 or not bool(torch.isfinite(image).all()):
        raise Wrong(f"an image of shape {tuple(image.shape)}, {image.dtype}")
    affine = image.affine.numpy()
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-7:
        raise Wrong(f"an image with the affine {affine.tolist()}")


def _segment(folder: Path, place: Path) -> None:
    """An image that is accepted is segmented, or refused; the label lies on its grid."""
    image = read_image(place)
    _must_be_image(image)
    read_label(place) if image.shape[0] == 1 else None
    if image.shape[0] > 1:
        raise InputError(f"{place}: is not segmented here, it has several channels")
    millimetres = float(np.abs(np.linalg.det(image.affine.numpy()[:3, :3]))) * image[0].numel()
    if millimetres > 3e5:
        raise InputError(f"{place}: is not segmented here, for it takes long")
    label = Segmenter(COARSE, ONE_FILTER, "cpu").segment(image).label
    if label.shape != (1, *image.shape[1:]) or not np.array_equal(label.affine.numpy(), image.affine.numpy()):
        raise Wrong("the label lies on another grid")


COARSE = domain(
    "coarse_mri", spacing=[1.0, 1.0, 1.0], patch_size=[16, 16, 16], augmentation=domain("x").augmentation.model_dump()
)
ONE_FILTER = torch.nn.Conv3d(1, 2, 1)


# ---- weights


def _refit(content: bytes) -> bytes:
    """Tensors of a safetensors file with the fingerprint that fits them in our header."""
    from safetensors.torch import load, save

    length = struct.unpack("<Q", content[:8])[0]
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    values = json.loads(metadata["u2net"])
    tensors = load(content)
    values["sha256"] = fingerprint(tensors)
    return save(tensors, {**metadata, "u2net": json.dumps(values)})


def _network_files(folder: Path) -> Iterable[Path]:
    bundle_of(folder / "many", domain("alpha_mri"), domain("beta_ct", channels=2, classes=3))
    for path in (folder / "many").rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            path.unlink()
    yield folder / "many" / "models"


def _read_network(folder: Path, place: Path) -> None:
    network = load_network(folder)
    for name, shape in network.shapes.items():
        factors = [int(np.prod([s[axis] for s in shape.strides])) for axis in range(3)]
        if max(factors) > 2048 or len(network.state_dict()) > 2000:
            raise Wrong("an adapter of a few kilobytes makes a network that fits no machine")
        if shape.in_channels * np.prod([2.0 * f for f in factors]) > 2**22:
            continue  # it fits, and takes long
        image = torch.randn(1, shape.in_channels, *(2 * f for f in factors))
        with torch.no_grad():
            logits = network(image, name)
        if logits.shape != (1, shape.out_channels, *image.shape[2:]):
            raise Wrong(f"logits of shape {tuple(logits.shape)}")


def _adapters(folder: Path) -> Iterable[Path]:
    """A bundle, and beside it an adapter of its trunk."""
    alpha, beta = domain("alpha_mri"), domain("beta_ct", channels=2, classes=3)
    torch.manual_seed(0)
    network = randomised(U2Net({d.name: d.network for d in (alpha, beta)}, **PLAN))
    whole = folder / "whole"
    save_bundle_weights(network, whole, {"beta_ct": {"description": beta, "licence": "CC0", "training": {"steps": 3}}})
    sample = folder / "sample"
    for name in ("trunk.safetensors", "alpha_mri.safetensors"):
        (sample / "bundle" / "models").mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / name, sample / "bundle" / "models" / name)
    alone = load_network(sample / "bundle" / "models")
    torch.save(alone.state_dict(), sample / "bundle" / "models" / "model.pt")
    (sample / "bundle" / "configs" / "domains").mkdir(parents=True)
    (sample / "bundle" / "configs" / "domains" / "alpha_mri.json").write_text(alpha.to_json())
    shutil.copy(whole / "beta_ct.safetensors", sample / "beta_ct.safetensors")
    yield sample


def _import_adapter(folder: Path, place: Path) -> None:
    before = fingerprint(load_network(folder / "bundle" / "models").adapter_state("alpha_mri"))
    target = import_adapter(place, folder / "bundle")
    after = load_network(folder / "bundle" / "models")
    if fingerprint(after.adapter_state("alpha_mri")) != before:
        raise Wrong("another domain was changed")
    if not target.resolve().is_relative_to((folder / "bundle").resolve()):
        raise Wrong(f"was put at {target}")
    described = [Domain.from_file(path).name for path in (folder / "bundle" / "configs" / "domains").glob("*.json")]
    if sorted(described) != sorted(after.domains):
        raise Wrong(f"describes {described} and has {list(after.domains)}")


def _pickled(folder: Path) -> Iterable[Path]:
    torch.manual_seed(0)
    state = randomised(U2Net({"a": domain("alpha_mri").network}, **PLAN)).state_dict()
    for old in (False, True):
        sample = folder / str(old)
        sample.mkdir(parents=True)
        torch.save(state, sample / "model.pt", _use_new_zipfile_serialization=not old)
        yield sample


def _must_be_state(state: Mapping[str, Any]) -> None:
    if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
        raise Wrong("holds something else than tensors by name")
    for value in state.values():
        value.detach().reshape(-1)[:1].tolist()  # whoever looks at it finds memory there


def _read_pickled(folder: Path, place: Path) -> None:
    _must_be_state(read_tensors(place))


def _originals(folder: Path) -> Iterable[Path]:
    from tests.weights.test_original import VECTORS  # where the frozen networks of the original code lie

    for source in sorted(VECTORS.glob("net_*.npz")):
        with np.load(source) as arrays:
            state = {key.removeprefix("state/"): torch.from_numpy(arrays[key]) for key in arrays if key.startswith("state/")}
        for suffix in (".pth", ".safetensors"):
            sample = folder / f"{source.stem}{suffix}"
            sample.mkdir(parents=True)
            if suffix == ".pth":
                torch.save({"epoch": 3, "model_state_dict": state}, sample / "original.pth")
            else:
                from safetensors.torch import save_file

                save_file({key: value.contiguous().clone() for key, value in state.items()}, sample / "original.safetensors")
            yield sample


def _import_original(folder: Path, place: Path) -> None:
    imported = import_original(place)
    network = imported.build()
    _must_be_state(network.state_dict())


# ---- bundles that travel


def _manifests(folder: Path) -> Iterable[Path]:
    """As package_bundle.py writes them, of files that are not looked at."""
    for name in ("one", "many"):
        domains = [
            {"name": f"{organ}_ct", "adapter": "0" * 64, "organ": organ, "modality": "CT", "classes": [organ, "tumour"]}
            for organ in (["liver"] if name == "one" else ["liver", "spleen"])
        ]
        paths = ("configs/0.json", "configs/1.json", "models/trunk.safetensors", "models/liver_ct.safetensors")
        files = [{"path": p, "size": k, "sha256": f"{k}" * 64, "large": k == 2} for k, p in enumerate(paths)]
        values = {
            "format": 1,
            "kind": "u2net bundle",
            "name": f"{name}_segmentation",
            "version": "0.2.0",
            "trunk": "a" * 64,
            "domains": domains,
            "licence": {"code": "Apache-2.0", "weights": "CC0-1.0"},
            "provenance": {"project": "u2net-monai", "project_version": "0.2.0", "packages": {"torch": "2.13.0"}},
            "files": files,
        }
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text(json.dumps(values))
        yield folder / name


def _read_manifest(folder: Path, place: Path) -> None:
    manifest = read_manifest(folder)
    if parse_manifest(manifest.to_bytes()) != manifest:
        raise Wrong("written and read again it is another")
    for path in manifest.by_path:
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise Wrong(f"lists {path}, which is outside the bundle")


def _archives(folder: Path) -> Iterable[Path]:
    source = folder / "source"
    for name, content in {"LICENSE": b"text" * 100, "configs/domain.json": b"{}", "models/model.pt": bytes(5000)}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
    for name in ("one_segmentation", "two_segmentation"):
        (folder / name).mkdir()
        write_archive(folder / name / "bundle.zip", name, files if name.startswith("one") else dict(list(files.items())[:1]))
        yield folder / name


def _unpack(folder: Path, place: Path) -> None:
    with unpacked(place, folder) as bundle:
        found = [path for path in bundle.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())]
        if found or not bundle.resolve().is_relative_to(folder.resolve()):
            raise Wrong(f"unpacks {found or bundle}")
    outside = [path for path in folder.parent.iterdir() if path != folder and path.name != "samples"]
    if outside or sorted(path.name for path in folder.iterdir()) != ["bundle.zip"]:
        raise Wrong(f"leaves something behind: {outside}")


def _read_model_file(folder: Path, place: Path) -> None:
    _must_be_state(read_model_file(place))


def _zipped_models(folder: Path) -> Iterable[Path]:
    return [sample for sample in _pickled(folder) if sample.name == "False"]


def _large_files(folder: Path) -> Iterable[Path]:
    folder.mkdir(parents=True)
    entries = [
        LargeFile(path=f"models/{name}.safetensors", url=f"https://example.org/{name}", hash_val="a" * 64, hash_type="sha256")
        for name in ("a", "b")
    ]
    (folder / "large_files.yml").write_text(large_files_text(entries))
    yield folder


def _read_large_files(folder: Path, place: Path) -> None:
    for path in read_large_files(folder):
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise Wrong(f"lists {path}, which is outside the bundle")


READERS = {
    reader.name: reader
    for reader in (
        Reader("domain.json", _domains, {"domain.json": change_json}, _read_domain),
        Reader("facts.json", _facts, {"facts.json": change_json}, _read_facts),
        Reader("dataset.json", _datasets, {".json": change_json}, _read_dataset),
        Reader("NIfTI", _niftis, {".nii": change_nifti}, _segment),
        Reader("NIfTI, gzip", _packed_niftis, {".nii.gz": change_gzip(change_nifti)}, _read_image),
        Reader("MetaImage", _itk(".mha"), {".mha": change_text_header}, _read_image),
        Reader("NRRD", _itk(".nrrd"), {".nrrd": change_text_header}, _read_image),
        Reader("DICOM series", _series, {".dcm": change_bytes}, _read_series),
        Reader("trunk and adapters", _network_files, {".safetensors": change_safetensors(_refit)}, _read_network),
        Reader("adapter import", _adapters, {"beta_ct.safetensors": change_safetensors(_refit)}, _import_adapter),
        Reader("model.pt", _pickled, {".pt": change_zip(())}, _read_pickled),
        Reader(
            "original checkpoint", _originals, {".pth": change_zip(()), ".safetensors": change_safetensors()}, _import_original
        ),
        Reader("manifest.json", _manifests, {"manifest.json": change_json}, _read_manifest),
        Reader("zip of a bundle", _archives, {".zip": change_zip(())}, _unpack),
        Reader("model.pt, not unpickled", _zipped_models, {".pt": change_zip(((".pkl", change_bytes),))}, _read_model_file),
        Reader("large_files.yml", _large_files, {".yml": change_bytes}, _read_large_files),
    )
}
