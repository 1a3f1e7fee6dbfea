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
from monai.engines.evaluator import Evaluator
from monai.engines.workflow import Workflow
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from custom_components.atomic import atomic_path
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.networks import U2Net
from custom_components.weights import AdapterNotes, save_bundle_weights, save_state
from custom_components.weights.adapters import adapter_paths
from custom_components.weights.bundle_files import describe_header

__all__ = ["BestWeights", "Resume"]

logger = logging.getLogger(__name__)

MODEL_FILE = "model.pt"
ADVICE = "give --resume false to start anew, or another --ckpt_dir"


class Resume:
    """Write the state of a training after every epoch, and continue from it.

    The file holds weights, optimizer, schedule, epoch, best score and the seconds that the training took so far. Random
    states are not in it: every random number of an epoch follows from the seed and the epoch (`SeededDraws`, `EpochSeed`).
    List it after the trainer's handlers that change the state (schedule, validation), so that what it saves is the state at
    the end of the epoch. The last epoch is validated here if no handler did: a training that is shorter than the interval
    between validations would otherwise end without any weights.

    Args:
        path: the checkpoint. Written under a temporary name and then renamed: a kill leaves the previous one.
        objects: what to save and restore, by name; each has ``state_dict`` and ``load_state_dict``.
        settings: what a continued training must have in common with the stopped one.
        evaluator: the validation engine, whose best score is kept; it runs once more after the last epoch if need be.
        resume: true, continue from ``path`` if it is there; false, start anew and replace it. The words do as well, in any
            case: a command line gives them as text.
        interval: epochs between checkpoints; the last epoch is always written.

    Raises:
        InputError: ``resume`` is neither true nor false.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        settings: Mapping[str, Any],
        evaluator: Evaluator | None = None,
        resume: bool | str = True,
        interval: int = 1,
    ) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.settings = dict(settings)
        self.evaluator = evaluator
        self.resume = _switch("--resume", resume)
        self.interval = interval
        self.seconds = 0.0  # of this training before it was stopped the last time
        self._started = 0.0

    def attach(self, engine: Workflow) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Workflow) -> None:
        """Restore the state if there is one; where several processes train, all of them do so or none.

        Raises:
            InputError: the checkpoint is unreadable, is of a training with other settings, or is not the same in all
                processes.
        """
        self._started = time.perf_counter()
        state = self._read_in_all_processes()
        if state is None:
            return
        try:
            for name, target in self.objects.items():
                _plain(target).load_state_dict(state["objects"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(f"{self.path}: does not fit this training ({error}); {ADVICE}") from error
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

    def _read_in_all_processes(self) -> dict[str, Any] | None:
        """The checkpoint, None where none is to be continued from.

        Every process comes to the comparison, whatever it found: otherwise the others would wait for it.
        """
        state: dict[str, Any] | None = None
        fault: InputError | None = None
        found = "none"
        try:
            if self.resume and self.path.is_file():
                state = self._read()
                found = f"epoch {state['epoch']}, step {state['iteration']}"
        except InputError as error:
            fault, found = error, f"one that cannot be used ({str(error).removesuffix(f'; {ADVICE}')})"
        everywhere: list[Any] = idist.all_gather((found,))  # type: ignore[arg-type, assignment]
        if len(set(everywhere)) > 1:
            listed = "; ".join(f"rank {rank} has {what}" for rank, (what,) in enumerate(everywhere))
            raise InputError(
                f"{self.path}: all processes must continue from the same checkpoint, but {listed}; copy the newest "
                f"usable one to every node, or {ADVICE}"
            )
        if fault is not None:
            raise fault
        return state

    def _read(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            saved, _, _ = state["settings"], state["epoch"], state["iteration"]
        except Exception as error:  # torch, pickle and zip raise many kinds for a damaged file
            raise InputError(f"{self.path}: is no checkpoint of this program ({error}); {ADVICE}") from error
        differing = [k for k in sorted({*saved, *self.settings}) if saved.get(k) != self.settings.get(k)]
        if differing:
            what = ", ".join(f"{k} {saved.get(k)} there, {self.settings.get(k)} here" for k in differing)
            raise InputError(f"{self.path}: belongs to a training with other settings ({what}); {ADVICE}")
        return state

    def save(self, engine: Workflow) -> None:
        last = engine.state.max_epochs is not None and engine.state.epoch >= engine.state.max_epochs
        if last and self.evaluator is not None and self.evaluator.state.epoch != engine.state.epoch:
            self.evaluator.run(engine.state.epoch)
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

    Raises:
        InputError: an adapter of another domain is there, which the trunk that this training writes would leave without its
            own. Adapters of a frozen trunk do share a folder.
    """

    def __init__(self, models_dir: str | Path, network: nn.Module, domains: Iterable[Domain] = ()) -> None:
        self.models_dir = Path(models_dir)
        self.network = network
        self.domains = {domain.name: domain for domain in domains}
        # Now: later on, what is there may be this training's own.
        self._earlier = [*self.models_dir.glob("*.safetensors"), *self.models_dir.glob(MODEL_FILE)]
        _must_keep_others(self.models_dir, _plain(network))

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
                name: AdapterNotes(
                    description=domain if _describes(domain, shapes.get(name)) else None, training=_summary(engine)
                )
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


def _describes(domain: Domain, shape: Mapping[str, Any] | None) -> bool:
    """Whether an adapter has what its domain's description says; it may have more, such as the rank of a change."""
    return shape is not None and domain.network.items() <= shape.items()


def _switch(option: str, value: Any) -> bool:
    """Whether an option is on; text is read as a word, for any text counts as true in Python."""
    words = {"true": True, "1": True, "false": False, "0": False}
    try:
        return words[str(value).lower()]
    except KeyError:
        raise InputError(f"{option} {value}: is no switch's value; give true or false") from None


def _must_keep_others(models_dir: Path, network: nn.Module) -> None:
    """Refuse to train a trunk into a folder where another domain's adapter needs the one that is there."""
    if not isinstance(network, U2Net):
        return
    frozen = not any(parameter.requires_grad for parameter in network.trunk.parameters())
    for path in adapter_paths(models_dir):
        if path.stem not in network.domains and not (frozen and describe_header(path).trunk == network.trunk_fingerprint()):
            raise InputError(
                f"{path}: runs on its own trunk only, and this training, which does not have its domain, writes another one "
                "beside it; give another --ckpt_dir, or move the file away"
            )


def _summary(engine: Workflow) -> dict[str, Any]:
    return {"epoch": engine.state.epoch, str(engine.state.key_metric_name): float(engine.state.best_metric)}


def _plain(target: Any) -> Any:
    return target.module if isinstance(target, DistributedDataParallel) else target
