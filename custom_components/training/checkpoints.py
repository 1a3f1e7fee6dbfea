"""Checkpoints that a training continues from exactly, and the best weights in the forms a bundle has."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite import distributed as idist
from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from custom_components.atomic import atomic_path
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.networks import U2Net
from custom_components.weights import AdapterNotes, save_bundle_weights, save_state

__all__ = ["BestWeights", "Resume"]

logger = logging.getLogger(__name__)

MODEL_FILE = "model.pt"


class Resume:
    """Write the state of a training after every epoch, and continue from it.

    The file holds weights, optimizer, schedule, epoch, best score and the seconds that the training took so far. Random
    states are not in it: every random number of an epoch follows from the seed and the epoch (`SeededDraws`, `EpochSeed`).
    List it after the trainer's handlers that change the state (schedule, validation), so that what it saves is the state at
    the end of the epoch.

    Args:
        path: the checkpoint. Written under a temporary name and then renamed: a kill leaves the previous one.
        objects: what to save and restore, by name; each has ``state_dict`` and ``load_state_dict``.
        settings: what a continued training must have in common with the stopped one.
        evaluator: the validation engine, whose best score is kept.
        resume: continue from ``path`` if it is there; otherwise start anew and replace it.
        interval: epochs between checkpoints; the last epoch is always written.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        settings: Mapping[str, Any],
        evaluator: Workflow | None = None,
        resume: bool = True,
        interval: int = 1,
    ) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.settings = dict(settings)
        self.evaluator = evaluator
        self.resume = resume
        self.interval = interval
        self.seconds = 0.0  # of this training before it was stopped the last time
        self._started = 0.0

    def attach(self, engine: Workflow) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Workflow) -> None:
        """Restore the state if there is one.

        Raises:
            InputError: the checkpoint is unreadable, or is of a training with other settings.
        """
        self._started = time.perf_counter()
        if not (self.resume and self.path.is_file()):
            return
        advice = "give --resume false to start anew, or another --ckpt_dir"
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            saved = state["settings"]
        except Exception as error:  # torch, pickle and zip raise many kinds for a damaged file
            raise InputError(f"{self.path}: is no checkpoint of this program ({error}); {advice}") from error
        differing = [k for k in sorted({*saved, *self.settings}) if saved.get(k) != self.settings.get(k)]
        if differing:
            what = ", ".join(f"{k} {saved.get(k)} there, {self.settings.get(k)} here" for k in differing)
            raise InputError(f"{self.path}: belongs to a training with other settings ({what}); {advice}")
        try:
            for name, target in self.objects.items():
                _plain(target).load_state_dict(state["objects"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(f"{self.path}: does not fit this training ({error}); {advice}") from error
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.seconds = state.get("seconds", 0.0)
        planned = state.get("max_epochs", engine.state.max_epochs)
        if planned != engine.state.max_epochs:
            text = "%s: was planned for %s epochs, now for %s: a rate that falls over all of them falls otherwise from here on"
            logger.warning(text, self.path, planned, engine.state.max_epochs)
        if self.evaluator is not None:
            self.evaluator.state.best_metric = state["best_metric"]
            self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        logger.info("%s: continues after epoch %d of %s", self.path, engine.state.epoch, engine.state.max_epochs)

    def save(self, engine: Workflow) -> None:
        last = engine.state.max_epochs is not None and engine.state.epoch >= engine.state.max_epochs
        if idist.get_rank() != 0 or (engine.state.epoch % self.interval and not last):
            return
        best = self.evaluator.state if self.evaluator is not None else None
        scaler = getattr(engine, "scaler", None)
        objects = {name: _plain(target).state_dict() for name, target in self.objects.items()}
        state = {
            "settings": self.settings,
            "objects": objects,
            # MONAI Label offers every *.pt of a bundle and looks here for weights; without, it would run on random ones.
            "model": objects.get("network"),
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "max_epochs": engine.state.max_epochs,
            "best_metric": float(best.best_metric) if best else None,
            "best_metric_epoch": int(best.best_metric_epoch) if best else None,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "seconds": self.seconds + time.perf_counter() - self._started,
        }
        with atomic_path(self.path) as temporary:
            torch.save(state, temporary)


class BestWeights:
    """Save the network whenever the evaluator it is attached to has a new best score.

    A `U2Net` is written in every form that a bundle has (``model.pt``, trunk and adapters), so that all of its readers
    see the same weights; another network as ``model.pt`` alone.

    Args:
        models_dir: a bundle's ``models`` folder; made if absent. Weights that were there before this handler was made are
            kept, once, in ``before_training`` beside them.
        network: the network; the wrapper of a distributed one is taken off.
        domains: descriptions that go into the headers of the adapters, so that each file says what it is for; beside them
            goes the epoch, with its score. Left out where the network has other strides or kernels, as the original's.
    """

    def __init__(self, models_dir: str | Path, network: nn.Module, domains: Iterable[Domain] = ()) -> None:
        self.models_dir = Path(models_dir)
        self.network = network
        self.domains = {domain.name: domain for domain in domains}
        # Now: later on, what is there may be this training's own.
        self._earlier = [*self.models_dir.glob("*.safetensors"), *self.models_dir.glob(MODEL_FILE)]

    def attach(self, engine: Workflow) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        if idist.get_rank() != 0 or engine.state.best_metric_epoch != engine.state.epoch:
            return
        network = _plain(self.network)
        self._keep_earlier()
        if isinstance(network, U2Net):
            shapes = network.config["domains"]
            notes = {
                name: AdapterNotes(description=domain if shapes.get(name) == domain.network else None, training=_summary(engine))
                for name, domain in self.domains.items()
            }
            save_bundle_weights(network, self.models_dir, notes)
        else:
            save_state(network, self.models_dir / MODEL_FILE)

    def _keep_earlier(self) -> None:
        kept = self.models_dir / "before_training"
        if self._earlier and not kept.exists():
            # Whole or not at all: half of it would keep the rest from being kept by the next training.
            partial = kept.with_name(f".{kept.name}")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for file in self._earlier:
                shutil.copy2(file, partial / file.name)
            partial.rename(kept)


def _summary(engine: Workflow) -> dict[str, Any]:
    return {"epoch": engine.state.epoch, str(engine.state.key_metric_name): float(engine.state.best_metric)}


def _plain(target: Any) -> Any:
    return target.module if isinstance(target, DistributedDataParallel) else target
