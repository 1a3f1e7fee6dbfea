"""Segmentation by a bundle's network as a task of MONAI Label: the steps and the label of ``scripts/segment.py``."""

from __future__ import annotations

import copy
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from fastapi import HTTPException, status
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.transform.writer import Writer
from monailabel.utils.others.generic import device_list, name_to_device

from custom_components.data import image_name
from custom_components.errors import InputError
from custom_components.inference import Segmentation, Segmenter
from custom_components.label_app.collection import Bundle
from custom_components.weights.adapters import TRUNK_FILE, adapter_path

__all__ = ["SegmentTask"]

NIFTI = (".nii.gz", ".nii")
OTHERS = (".seg.nrrd", ".nrrd", ".mha")


class SegmentTask(InferTask):
    """One model of the server: a domain of a bundle, or a bundle of many with the domain as an option.

    No configuration is evaluated and nothing is unpickled; weights that do not fit are an error, never a random network.

    Args:
        bundle: whose network; files that change are read again at the next request.
        domain: the one domain that this model has; None offers all of the bundle's, those included that are added later.

    Raises:
        InputError: the domain cannot be used.
    """

    def __init__(self, bundle: Bundle, domain: str | None = None) -> None:
        self.bundle = bundle
        self.domain = domain
        self._segmenters: dict[tuple[str, str], tuple[tuple[Any, ...], Segmenter]] = {}
        self._lock = threading.Lock()  # MONAI_LABEL_INFER_CONCURRENCY can make requests overlap
        metadata = bundle.metadata()
        labels: dict[str, int] = {}
        if domain is not None:
            if (described := bundle.domains().get(domain)) is None:
                raise InputError(f"{bundle.name}: has no domain '{domain}'; it has {', '.join(bundle.names()) or 'none'}")
            labels = {label: value for label, value in described.labels.items() if label != "background"}
        description = metadata.get("description", bundle.name)
        if domain is None:
            description += ". Choose the domain in the options; the labels that it has come with each result"
        self.version = metadata.get("version")
        super().__init__(InferType.SEGMENTATION, labels, 3, description, {"device": device_list()})

    def is_valid(self) -> bool:
        return True  # a task is made for bundles with weights only, and says so itself where they went

    def info(self) -> dict[str, Any]:
        return {**super().info(), "version": self.version}

    def config(self) -> dict[str, Any]:
        """The options a viewer shows; of a list the first is the default."""
        options = dict(self._config)
        if self.domain is None:
            options["domain"] = self.bundle.names()
        return options

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[str, dict[str, Any]]:
        """Segment one image.

        Args:
            request: ``image``, a path; ``domain`` where the model has several; ``device``; ``result_extension``.
            callbacks: of MONAI Label, which it only gives to scoring methods; not used.

        Returns:
            The file of the label, on the image's grid, and what is to be said of it: ``label_names``, ``domain``,
            ``volumes_mm3``, ``adapter``, ``latencies``.

        Raises:
            HTTPException: 404 no such image; 400 it cannot be read or used, or an option is wrong; 503 the weights cannot
                be used.
        """
        options = {**copy.deepcopy(self.config()), **request}
        path = str(options.get("image") or "")
        if not path or not os.path.exists(path):
            raise _error(status.HTTP_404_NOT_FOUND, "the studies folder has no image of this name")
        domain = self._chosen(options)
        extension = _extension(options, path)
        device = name_to_device(options.get("device"))
        with self._lock:
            try:
                segmenter = self._segmenter(domain, device)
            except InputError as error:
                raise _error(status.HTTP_503_SERVICE_UNAVAILABLE, error) from error
            try:
                result = segmenter.segment(path)
            except InputError as error:
                raise _error(status.HTTP_400_BAD_REQUEST, error) from error
        described = segmenter.domain
        return _write(result, extension), {
            "label_names": {name: described.labels[name] for name in described.classes},
            "domain": domain,
            "volumes_mm3": result.volumes,
            "latencies": {**{k: round(v, 4) for k, v in result.seconds.items()}, "total": round(sum(result.seconds.values()), 4)},
            "centroids": {},  # OHIF asks for the key
        }

    def _chosen(self, options: dict[str, Any]) -> str:
        if self.domain is not None:
            return self.domain
        given = options.get("domain")
        name = str(given[0] if isinstance(given, (list, tuple)) and given else given)
        try:
            known = list(self.bundle.domains())
        except InputError as error:
            raise _error(status.HTTP_503_SERVICE_UNAVAILABLE, error) from error
        if name not in known:
            raise _error(status.HTTP_400_BAD_REQUEST, f"{self.bundle.name}: has no domain '{name}'; it has {', '.join(known)}")
        return name

    def _segmenter(self, domain: str, device: str) -> Segmenter:
        """As loaded before, if the files have not changed since."""
        files = [self.bundle.models / TRUNK_FILE, adapter_path(self.bundle.models, domain)]
        try:
            stats = [file.stat() for file in files]
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror}); try again") from None
        state = tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in zip(files, stats, strict=True))
        kept = self._segmenters.get((domain, device))
        if kept is None or kept[0] != state:
            kept = (state, Segmenter.from_bundle(self.bundle.folder, device, domain=domain))
            self._segmenters[(domain, device)] = kept
        return kept[1]


def _extension(options: dict[str, Any], path: str) -> str:
    """The label's file type: what the client asks for, else the image's where it can be written, else NIfTI."""
    asked = options.get("result_extension")
    if asked and asked not in (*NIFTI, *OTHERS):
        raise _error(status.HTTP_400_BAD_REQUEST, f"result_extension '{asked}': must be one of {', '.join((*NIFTI, *OTHERS))}")
    own = Path(path).name[len(image_name(path)) :].lower()
    return str(asked or (own if own in (*NIFTI, *OTHERS) else NIFTI[0]))


def _write(result: Segmentation, extension: str) -> str:
    handle, name = tempfile.mkstemp(prefix="label_", suffix=extension)  # MONAI Label removes it once it is sent
    os.close(handle)
    if extension in NIFTI:
        result.save(name)
        return name
    os.unlink(name)
    written, _ = Writer(label="pred")({"pred": result.label[0], "result_extension": extension, "result_compress": True})
    return str(written)


def _error(code: int, what: InputError | str) -> HTTPException:
    return HTTPException(code, detail=" ".join(str(what).split()))
