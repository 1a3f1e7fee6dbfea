"""Validation over several domains in one MONAI evaluator: each image goes its own domain's way."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.engines.workflow import Workflow
from monai.inferers import Inferer
from monai.transforms import Transform

from custom_components.training.domain_sets import DomainSets
from custom_components.training.metrics import score_case, summarise
from custom_components.training.pictures import Overlays
from custom_components.training.scoring import Scores, write_scores

__all__ = ["DomainInferer", "DomainOverlays", "DomainPostprocessing", "DomainScores"]


class DomainInferer(Inferer):
    """Infer with the windows of the domain that the network's argument ``domain`` names."""

    def __init__(self, sets: DomainSets) -> None:
        super().__init__()
        self.sets = sets

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, domain: str | Sequence[str], **kwargs: Any
    ) -> Any:
        name = domain if isinstance(domain, str) else domain[0]
        return self.sets[name].inferer(inputs, network, *args, domain=name, **kwargs)


class DomainPostprocessing(Transform):
    """Turn logits into classes as the item's ``domain`` says."""

    def __init__(self, sets: DomainSets) -> None:
        self.sets = sets

    def __call__(self, data: Mapping[Hashable, Any]) -> Any:
        return self.sets[str(data["domain"])].postprocessing(data)


class DomainScores(Metric):
    """Mean Dice over domains, of each domain's mean over classes and cases; every domain counts alike.

    As key metric of a MONAI evaluator. It also puts ``<domain>_dice`` and ``<domain>_<class>_dice`` into the engine's
    metrics and writes ``<output_dir>/<domain>.json`` and ``.csv`` after every validation.

    Args:
        sets: the domains.
        output_dir: made if absent; None writes nothing.
        facts: more to say in the files about how the scores came about.
    """

    def __init__(self, sets: DomainSets, output_dir: str | Path | None = None, facts: Mapping[str, Any] | None = None) -> None:
        self.classes = {name: item.domain.classes for name, item in sets.items()}
        self.output_dir = output_dir
        self.facts = dict(facts or {})
        self.cases: dict[str, Scores] = {}
        super().__init__()

    def reset(self) -> None:
        self.cases = {name: {} for name in self.classes}

    def iteration_completed(self, engine: Any) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.update((batch, output))

    def update(self, output: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
        """Score one case: the batch's entry and the engine's output for it."""
        batch, result = output
        name, label = str(batch["domain"]), result["label"]
        if not isinstance(label, MetaTensor):
            raise TypeError("the label carries no geometry: its spacing is unknown")
        spacing = affine_to_spacing(label.affine).tolist()
        scores = score_case(result["pred"][0].cpu(), label[0].cpu(), spacing, self.classes[name], metrics=["dice"])
        self.cases[name][str(batch["case"])] = scores

    def compute(self) -> float:
        means = [d["mean"] for d in self._summaries().values() if d["mean"] is not None]
        return float(np.mean(means)) if means else 0.0

    def completed(self, engine: Engine, name: str) -> None:
        if idist.get_world_size() > 1:
            parts: list[dict[str, Scores]] = idist.all_gather(self.cases)  # type: ignore[arg-type, assignment]
            self.cases = {d: {case: s for part in parts for case, s in part[d].items()} for d in self.classes}
        self.cases = {d: dict(sorted(cases.items())) for d, cases in self.cases.items()}
        for domain, summary in self._summaries().items():
            for key, value in summary.items():
                if value is not None:
                    engine.state.metrics[f"{domain}_dice" if key == "mean" else f"{domain}_{key}_dice"] = value
        engine.state.metrics[name] = self.compute()
        if self.output_dir is not None and idist.get_rank() == 0:
            for domain, cases in self.cases.items():
                if cases:
                    write_scores(cases, self.output_dir, domain, self.facts)

    def _summaries(self) -> dict[str, dict[str, float | None]]:
        """Domain → class (and ``mean``) → mean Dice over cases."""
        return {
            domain: {name: values["dice"]["mean"] for name, values in summarise(cases, resamples=1).items()}
            for domain, cases in self.cases.items()
            if cases
        }


class DomainOverlays:
    """`Overlays` of the first cases of every domain, in a folder of the domain's name.

    Args:
        sets: the domains.
        output_dir: gets the folders.
        cases: of each domain.
    """

    def __init__(self, sets: DomainSets, output_dir: str | Path, cases: int = 2) -> None:
        folder = Path(output_dir)
        self.overlays = {name: Overlays(item.domain.classes, folder / name, cases) for name, item in sets.items()}

    def attach(self, engine: Workflow) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)
        for overlays in self.overlays.values():
            engine.add_event_handler(Events.EPOCH_COMPLETED, overlays.write)

    def draw(self, engine: Workflow) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.overlays[str(batch["domain"])].draw_case(batch, output)
