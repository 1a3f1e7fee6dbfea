"""The app: which models, trainings and strategies the server offers."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from custom_components import __version__
from custom_components.errors import InputError
from custom_components.label_app.batch import BatchTask
from custom_components.label_app.collection import Bundle, Collection
from custom_components.label_app.infer import SegmentTask
from custom_components.label_app.train import AdapterTrainTask

__all__ = ["LabelApp"]

logger = logging.getLogger(__name__)


class LabelApp(MONAILabelApp):
    """The bundles of a collection that have weights.

    A bundle of one domain is one model, under its own name. A bundle of many is a model with an option ``domain``, and one
    model ``<bundle>.<domain>`` for each: OHIF takes the names of a label's values from the model and not from the result,
    so the former is not offered where studies come from a DICOMweb server. Adapters that were trained here are models
    ``<bundle>.<domain>`` too.

    Args:
        app_dir: MONAI Label's folder of the app, where it writes its log.
        studies: folder of images, or the address of a DICOMweb server.
        conf: ``bundles_dir``: folder of bundles, default is the repository's; ``state_dir``: what the server writes, default is
            ``state`` in ``app_dir``; ``models``: names of bundles, joined by commas, default is all.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        names = [name.strip() for name in conf.get("models", "").split(",") if name.strip()]
        folder = Path(conf.get("bundles_dir") or Path(__file__).parents[2] / "bundles")
        self.collection = Collection(folder, Path(conf.get("state_dir") or Path(app_dir) / "state"), names)
        self.bundles, left_out = self.collection.split()
        for name, why in left_out.items():
            logger.warning("%s is left out: %s", name, why)
        if not self.bundles or (names and left_out):
            raise InputError("; ".join(left_out.values()))
        super().__init__(
            app_dir,
            studies,
            conf,
            name="u2net-monai",
            description="Universal segmentation: one trunk for all domains, one adapter for each",
            version=__version__,
        )

    def init_infers(self) -> dict[str, InferTask]:
        infers: dict[str, InferTask] = {
            name: SegmentTask(bundle, domain) for bundle in self.bundles for name, domain in self._models(bundle).items()
        }
        logger.info("models: %s", ", ".join(infers))
        return infers

    def init_trainers(self) -> dict[str, TrainTask]:
        return {bundle.name: AdapterTrainTask(bundle, self.collection) for bundle in self.bundles}

    def init_strategies(self) -> dict[str, Strategy]:
        return {"random": Random(), "first": First()}

    def init_batch_infer(self) -> BatchTask:
        return BatchTask()

    def info(self) -> dict[str, Any]:
        self._refresh()
        found: dict[str, Any] = super().info()
        return found

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        self._refresh()
        result: dict[str, Any] = super().infer(request, datastore)
        return result

    def _refresh(self) -> None:
        """Models of domains that a training has added, or that ``scripts/adapters.py`` has removed, since."""
        for bundle in self.bundles:
            try:
                models = self._models(bundle)
            except InputError:
                continue  # files that went or were damaged: the models stay, and say so when they are asked
            for name in [name for name, task in self._infers.items() if task.bundle is bundle and name not in models]:
                del self._infers[name]
            for name, domain in models.items():
                if name not in self._infers:
                    with suppress(InputError):  # it went again since: no model
                        self._infers[name] = SegmentTask(bundle, domain)

    def _models(self, bundle: Bundle) -> dict[str, str | None]:
        """Name of each model of a bundle to its domain; None for the one whose domain is an option."""
        domains = bundle.domains()
        if not bundle.shipped_with_many:
            first = next(iter(bundle.shipped_domains()))
            return {f"{bundle.name}.{name}" if name != first else bundle.name: name for name in domains}
        remote = self.studies.startswith(("http://", "https://"))
        return {**({} if remote else {bundle.name: None}), **{f"{bundle.name}.{name}": name for name in domains}}
