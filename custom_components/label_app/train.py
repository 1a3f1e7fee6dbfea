"""Training of an adapter from the server: the trunk stays frozen, the new adapter is served, other domains stay as they are."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from monai.bundle import run as run_bundle
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from custom_components.atomic import atomic_path
from custom_components.domain import Domain
from custom_components.errors import InputError, input_error_behind
from custom_components.label_app.collection import Bundle, Collection
from custom_components.label_app.corrected import corrected_cases, write_dataset
from custom_components.label_app.own_copy import check_name, take_in
from custom_components.weights.adapters import TRUNK_FILE, adapter_path, load_trunk
from custom_components.weights.on_trunk import RANDOM

__all__ = ["AdapterTrainTask"]

logger = logging.getLogger(__name__)

# Of the options below, in the order of a viewer's list; the first is the default.
STARTS = ("its own adapter", "mean of the other domains", "random values")
UNNAMED = ("leave out", "take as the domain's values")
SUPERVISION = (1.0, 0.5, 0.25)  # weights of the heads, as in the bundles' train.json
SCORES = "train_stats.json"


class AdapterTrainTask(TrainTask):
    """Trains one domain's adapter on a bundle's trunk with the labels that were submitted, and takes it into the bundle.

    Args:
        bundle: whose trunk; the adapter goes into the server's copy of it.
        collection: its domains can be trained on this trunk, those included that have no weights.
    """

    def __init__(self, bundle: Bundle, collection: Collection) -> None:
        super().__init__(
            f"Adapter on the frozen trunk of {bundle.name}, with the submitted labels; the other domains stay as they are"
        )
        self.bundle = bundle
        self.collection = collection

    def config(self) -> dict[str, Any]:
        return {
            "domain": self._known(),
            "save_as": "",
            "start_from": list(STARTS),
            "max_epochs": 20,
            "steps_per_epoch": 50,
            "learning_rate": 0.003,
            "val_split": 0.2,
            "labels_without_names": list(UNNAMED),
            "device": device_list(),
        }

    def stats(self) -> dict[str, Any]:
        """Of the last training that ended: what a viewer shows as accuracy."""
        try:
            return dict(json.loads((self._runs / SCORES).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Train, and serve what came out.

        Args:
            request: the options of `config`; an option that is absent has its default.
            datastore: of MONAI Label.

        Returns:
            `stats`.

        Raises:
            InputError: an option is wrong, there are too few labels, or one of them cannot be used.
        """
        options = {**self.config(), **{k: v for k, v in request.items() if v is not None}}
        options = {key: value[0] if isinstance(value, (list, tuple)) else value for key, value in options.items()}
        numbers = _numbers(options)
        source = str(options["domain"])
        domain = self._domain(source, str(options["save_as"] or ""))
        check_name(self.bundle, domain.name)
        start = self._start(str(options["start_from"]), source, domain.name)
        cases = corrected_cases(datastore, domain, by_value=options["labels_without_names"] == UNNAMED[1])
        logger.info("%d images have labels of domain '%s': %s", len(cases), source, ", ".join(case.name for case in cases))
        data = self._runs / f".data_{domain.name}"
        shutil.rmtree(data, ignore_errors=True)
        identity = write_dataset(cases, domain, data, numbers["val_split"])
        # One folder for one set of labels and options: a training that was stopped goes on, anything else starts another.
        trunk = load_trunk(self.bundle.models / TRUNK_FILE)[0].sha256
        chosen = [identity, trunk, options["start_from"], numbers["steps_per_epoch"], numbers["learning_rate"]]
        run = self._runs / f"{domain.name}_{hashlib.sha256(repr(chosen).encode()).hexdigest()[:12]}"
        run.mkdir(parents=True, exist_ok=True)
        with atomic_path(run / "domain.json") as path:
            path.write_text(domain.to_json(), encoding="utf-8")
        shutil.rmtree(run / "data", ignore_errors=True)
        data.rename(run / "data")
        began = time.perf_counter()
        self._train(domain, run, start, name_to_device(options["device"]), numbers)
        trained = run / "models" / f"{domain.name}.safetensors"
        if not trained.is_file():
            raise InputError(f"{trained}: the training left no weights; its log says why")
        place = take_in(self.bundle, trained)
        shutil.rmtree(run / "models")  # the same request once more is a new training
        logger.info("%s: serves the domain '%s' now", place, domain.name)
        return self._note(domain.name, len(cases), numbers["max_epochs"], run, time.perf_counter() - began)

    @property
    def _runs(self) -> Path:
        return self.collection.state / "training" / self.bundle.name

    def _known(self) -> list[str]:
        """Domains that can be trained: the bundle's own first."""
        own = self.bundle.names()
        return own + [name for name in self.collection.descriptions() if name not in own]

    def _domain(self, source: str, save_as: str) -> Domain:
        """What is trained, under its new name: the bundle's own domains keep theirs, and what they compute."""
        own = self.bundle.domains()
        domain = own.get(source) or self.collection.descriptions().get(source)
        if domain is None:
            raise InputError(f"{self.bundle.name}: knows no domain '{source}'; it knows {', '.join(self._known())}")
        shipped = adapter_path(self.bundle.shipped / "models", source).is_file()
        name = save_as or (f"{source}_trained" if shipped else source)
        return Domain.from_dict({**domain.model_dump(mode="json"), "name": name}, f"save_as '{name}'")

    def _start(self, choice: str, source: str, name: str) -> Path | str:
        """File or folder of the adapters to start from, or the word for none."""
        if choice == STARTS[2]:
            return RANDOM
        if choice == STARTS[1]:
            return self.bundle.models
        if choice != STARTS[0]:
            raise InputError(f"start_from '{choice}': must be one of {', '.join(STARTS)}")
        for own in (name, source):  # what was trained here before goes on
            if (path := adapter_path(self.bundle.models, own)).is_file():
                return path
        logger.info("domain '%s' has no adapter yet: starts from the %s", source, STARTS[1])
        return self.bundle.models

    def _train(self, domain: Domain, run: Path, start: Path | str, device: str, numbers: dict[str, Any]) -> None:
        configs = self._configs()
        more: dict[str, Any] = {"loss#weights": list(SUPERVISION[: len(domain.kernel_sizes)])}
        try:
            run_bundle(
                config_file=[str(configs / "train.json"), str(configs / "adapt.json")],
                bundle_root=str(configs.parent),
                domains=[str(run / "domain.json")],
                dataset_dirs={domain.name: str(run / "data")},
                folds=str(run / "data" / "folds.json"),
                trunk=str(self.bundle.models / TRUNK_FILE),
                warm_start=str(start),
                ckpt_dir=str(run / "models"),
                output_dir=str(run / "out"),
                device=device,
                max_epochs=numbers["max_epochs"],
                steps_per_domain=numbers["steps_per_epoch"],
                val_interval=min(4, numbers["max_epochs"]),
                lr=numbers["learning_rate"],
                **more,
            )
        except Exception as error:
            if isinstance(found := input_error_behind(error), InputError):
                raise found from None
            raise

    def _configs(self) -> Path:
        """Of a bundle of many domains: they train an adapter of any domain on any trunk."""
        for folder in (self.bundle.shipped, self.collection.folder / "universal_segmentation"):
            if all((folder / "configs" / name).is_file() for name in ("train.json", "adapt.json", "chain.json")):
                return folder / "configs"
        raise InputError(f"{self.collection.folder}: has no universal_segmentation, whose configs train adapters; add the bundle")

    def _note(self, name: str, cases: int, epochs: int, run: Path, seconds: float) -> dict[str, Any]:
        summary = json.loads((run / "out" / f"{name}.json").read_text(encoding="utf-8"))["summary"]
        stats = {
            "domain": name,
            "cases": cases,
            "epoch": epochs,
            "total_epochs": epochs,
            "total_time": round(seconds, 1),
            "best_metric": summary["mean"]["dice"]["mean"] or 0.0,
            "best_metric_is": "mean Dice of the validation cases at the last validation",
        }
        with atomic_path(self._runs / SCORES) as path:
            path.write_text(json.dumps(stats, indent=1), encoding="utf-8")
        return stats


def _numbers(options: dict[str, Any]) -> dict[str, Any]:
    """The options that are numbers, which a viewer may send as text."""
    kinds = {"max_epochs": int, "steps_per_epoch": int, "learning_rate": float, "val_split": float}
    limits = {"max_epochs": (1, 10000), "steps_per_epoch": (1, 100000), "learning_rate": (1e-7, 1), "val_split": (0, 0.9)}
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        low, high = limits[name]
        try:
            found[name] = kind(options[name])
        except (TypeError, ValueError):
            raise InputError(f"{name} '{options[name]}': must be a number") from None
        if not low <= found[name] <= high:
            raise InputError(f"{name} {found[name]}: must be from {low} to {high}")
    return found
