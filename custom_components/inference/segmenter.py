"""Segment one image with a bundle's network: no ``$`` expression is evaluated and nothing is unpickled."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from custom_components.data import AtomicNiftiWriter, ImagePath, read_image
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.inference.bundle_domains import bundle_domain
from custom_components.inference.chain import STAGES, postprocessing, preprocessing
from custom_components.inference.class_map import class_map
from custom_components.inference.ensemble import Ensemble
from custom_components.inference.windows import WindowInferer
from custom_components.transforms import ClipAndStandardized, LargestClass

__all__ = ["Segmentation", "Segmenter", "label_made_by"]

MAX_VOXELS = 2**30  # 4 GiB as float32: a metre of CT at half a millimetre is below it, a wrong header is above
IDENTITY = re.compile(r"\S+ [0-9a-f]{16}")


@dataclass(frozen=True)
class Segmentation:
    """A label and what is to be said of it.

    Attributes:
        label: (1, X, Y, Z), uint8, class indices on the image's own grid and axes, with its affine.
        volumes: class name to mm³, the background left out.
        seconds: stage (``read``, those of `custom_components.inference.chain.STAGES`, ``network``, ``windows``) to seconds.
    """

    label: MetaTensor
    volumes: dict[str, float]
    seconds: dict[str, float] = field(compare=False)

    def save(self, path: str | Path, made_by: str = "") -> None:
        """Write the label as NIfTI: whole under its name, or not at all.

        Args:
            path: of the file.
            made_by: `Segmenter.identity`; goes into the header's ``descrip``, where `label_made_by` finds it.

        Raises:
            InputError: the name does not end in ``.nii`` or ``.nii.gz``, or the folder cannot be written to.
        """
        if not str(path).endswith((".nii", ".nii.gz")):
            raise InputError(f"{path}: labels are written as NIfTI; choose a name that ends in .nii.gz")
        affine = self.label.affine.numpy()
        writer = AtomicNiftiWriter(output_dtype=np.uint8)
        writer.set_data_array(self.label, channel_dim=0)
        writer.set_metadata({"affine": affine, "original_affine": affine}, resample=False)
        writer.write(Path(path), descrip=made_by)


def label_made_by(path: str | Path) -> str:
    """The `Segmenter.identity` that a label was saved with; empty where its file has none.

    Args:
        path: a NIfTI file that `custom_components.data.read_label` has read.
    """
    header: Any = nib.load(path).header
    text = header["descrip"].item().decode("ascii", "replace")
    return text if IDENTITY.fullmatch(text) else ""


class Segmenter:
    """A network and its domain, ready to segment images one after another.

    Args:
        domain: the task.
        network: (N, C, Z, Y, X) → logits (N, K, Z, Y, X) on patches of the domain's size; moved to the device, set to eval.
        device: ``cpu``, ``cuda``, ``cuda:1``, …; None takes CUDA where there is one.
        flips: average over mirror images, along the axes that the domain's training mirrors.
        sw_batch_size: windows per network call.

    Raises:
        InputError: no such device, or flips for a domain that is not trained with mirror images.
    """

    def __init__(
        self,
        domain: Domain,
        network: torch.nn.Module,
        device: str | torch.device | None = None,
        flips: bool = False,
        sw_batch_size: int = 1,
    ) -> None:
        self.domain = domain
        self.device = _device(device)
        self.network = network.to(self.device).eval()
        mirror = domain.augmentation.mirror
        axes = mirror.axes if flips and mirror.probability > 0 else ()
        if flips and not axes:
            raise InputError(f"{domain.name}: its training mirrors no axis, so flips would only harm; leave them out")
        self.inferer = WindowInferer(domain.patch_size, sw_batch_size, flip_axes=axes)
        self.preprocessing = preprocessing(domain)
        self.postprocessing = postprocessing(domain, self.preprocessing)

    @classmethod
    def from_bundle(
        cls,
        bundle_dir: str | Path,
        device: str | torch.device | None = None,
        flips: bool = False,
        domain: str | None = None,
        models: Sequence[str | Path] = (),
    ) -> Segmenter:
        """Read a domain's description in a bundle's ``configs`` and its safetensors in ``models``.

        Args:
            bundle_dir: the bundle's folder.
            device, flips: as in the constructor.
            domain: name of the domain; None where the bundle has only one.
            models: folders of weights to use instead of the bundle's ``models``; several are averaged (`Ensemble`).

        Raises:
            InputError: the folder is no bundle, its domain or weights are missing or do not fit, or see the constructor.
        """
        from custom_components.weights import load_network  # builds networks: not needed with a network at hand
        from custom_components.weights.model import check_trained

        described = bundle_domain(bundle_dir, domain)
        networks = []
        for folder in models or [Path(bundle_dir) / "models"]:
            check_trained(folder, "trunk.safetensors")
            networks.append(load_network(folder, described).select(described.name))
        return cls(described, networks[0] if len(networks) == 1 else Ensemble(networks), device, flips)

    @cached_property
    def identity(self) -> str:
        """The domain's name, and sixteen digits that stand for all that its labels follow from: weights, description, flips."""
        from custom_components.networks import fingerprint  # builds networks: not needed to segment with one at hand

        what = [fingerprint(self.network.state_dict()), self.domain.to_json(), self.inferer.flip_axes]
        return f"{self.domain.name[:60]} {hashlib.sha256(repr(what).encode()).hexdigest()[:16]}"

    @torch.no_grad()
    def segment(self, image: ImagePath | MetaTensor) -> Segmentation:
        """Segment one image.

        Args:
            image: what `custom_components.data.read_image` takes, or (C, X, Y, Z) with an affine (RAS, mm).

        Raises:
            InputError: the image cannot be read or used; see `read_image`.
        """
        seconds: dict[str, float] = {}
        with _timed(seconds, "read"):
            if isinstance(image, torch.Tensor):
                if not isinstance(image, MetaTensor):
                    raise InputError("image: a plain tensor has no geometry; give a MetaTensor with its affine, or a file")
                source = image
            else:
                source = read_image(image, self.domain.in_channels)
        self._refuse_giants(source)
        # A trace from earlier transforms is the caller's: only this chain's steps are to be undone.
        item = _apply(self.preprocessing, {"image": MetaTensor(source.as_tensor(), meta=source.meta)}, seconds)
        classes = self._classes(item["image"], seconds)
        label = _apply(self.postprocessing, {**item, "pred": classes}, seconds)["pred"].as_tensor().round().to(torch.uint8)
        if label.shape[1:] != source.shape[1:]:
            raise RuntimeError(f"label of shape {tuple(label.shape[1:])} for an image of {tuple(source.shape[1:])}")
        # Equal to what the inversion gives up to rounding; so it is equal to the last digit.
        kept = {key: source.meta[key] for key in ("filename_or_obj", "space") if key in source.meta}
        result = MetaTensor(label, affine=source.affine, meta=kept)
        return Segmentation(result, self._volumes(result), seconds)

    def _classes(self, image: MetaTensor, seconds: dict[str, float]) -> MetaTensor:
        """Class map of a network input, with its geometry."""
        start, seconds["network"] = time.perf_counter(), 0.0

        def network(windows: torch.Tensor) -> torch.Tensor:
            before = time.perf_counter()
            logits: torch.Tensor = self.network(windows)
            if logits.is_cuda:
                torch.cuda.synchronize(logits.device)  # for the time alone, of calls that take far longer
            seconds["network"] += time.perf_counter() - before
            return logits

        if self.inferer.flip_axes:  # probabilities of whole volumes are averaged
            classes = LargestClass()(self.inferer(image[None].to(self.device), network)[0].cpu())
        else:
            size, batch = self.domain.patch_size, self.inferer.sw_batch_size
            found = class_map(image.as_tensor(), network, size, sw_batch_size=batch, device=self.device)
            classes = MetaTensor(found, meta=image.meta)
        seconds["windows"] = time.perf_counter() - start - seconds["network"]
        return classes  # type: ignore[return-value]

    def _refuse_giants(self, image: MetaTensor) -> None:
        volume = abs(float(np.linalg.det(image.affine.numpy()[:3, :3]))) * float(np.prod(image.shape[1:]))
        voxels = volume / float(np.prod(self.domain.spacing))
        if voxels > MAX_VOXELS:
            name = image.meta.get("filename_or_obj", "image")
            raise InputError(
                f"{name}: would have {voxels:.2g} voxels at {self.domain.name}'s spacing of {self.domain.spacing} mm, more than "
                f"the {MAX_VOXELS:.2g} that are allowed; check the voxel size in its header"
            )

    def _volumes(self, label: MetaTensor) -> dict[str, float]:
        voxel = abs(float(np.linalg.det(label.affine.numpy()[:3, :3])))
        counts = torch.bincount(label.as_tensor().flatten(), minlength=self.domain.out_channels)
        return {name: int(counts[self.domain.labels[name]]) * voxel for name in self.domain.classes}


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(f"device '{device}' is not there; choose cpu, or cuda where torch finds a GPU") from None
    return chosen


def _apply(chain: Compose, item: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    given = _storage(item["image"])
    for transform in chain.transforms:
        with _timed(seconds, STAGES[type(transform)]):
            # What resampling has made is ours to change, the image that was given is not.
            own = isinstance(transform, ClipAndStandardized) and _storage(item["image"]) != given
            item = transform.overwrite(item) if own else transform(item)
    return item


def _storage(image: torch.Tensor) -> int:
    return image.as_tensor().untyped_storage().data_ptr() if isinstance(image, MetaTensor) else image.untyped_storage().data_ptr()


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
