"""The domains of one training: each with its description, its cases, its transforms and its patches."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset
from monai.transforms import Compose
from torch.utils.data import ConcatDataset

from custom_components.data import datalist, training_cases
from custom_components.domain import Domain, NetworkShape
from custom_components.errors import InputError

__all__ = ["DomainSet", "DomainSets"]

logger = logging.getLogger(__name__)

SIZED_CASES = 3  # cases of each domain that are prepared to estimate what all of them take


@dataclass(frozen=True)
class DomainSet:
    """One domain in a training.

    Attributes:
        domain: its description.
        training, validation: its cases (`custom_components.data.datalist`).
        training_transform: case → patch; validation_transform: case → prepared image and label.
        inferer: whole image → logits.
        postprocessing: logits → class map.
    """

    domain: Domain
    training: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    training_transform: Compose
    validation_transform: Compose
    inferer: Any
    postprocessing: Compose


class DomainSets(Mapping[str, DomainSet]):
    """Domains by name, in the order given; everything is checked when it is made, before a training starts.

    Args:
        domains: files of descriptions (``domain.json``), at least one.
        dataset_dirs: domain name → Decathlon folder; folders of other domains are not looked at.
        chain: a MONAI configuration of one domain's transforms: ``training``, ``validation``, ``inferer`` and
            ``postprocessing``, in terms of ``@domain``.
        overrides: values of ``chain`` to replace, by their ids (``image_order``, ``deterministic_transforms#5#margin``).
        fold, folds: as in `custom_components.data.datalist`; ``folds`` may also be a mapping by domain name.
        shape: None, or strides, kernels and patch that all domains get (`Domain.squeezed`): what a trunk with dense
            filters asks for.
        cache_gb: memory of each process for prepared cases, 10⁹ bytes. If the cases of all domains do not fit, the same share
            of each domain's is kept and the others are read anew each time.

    Raises:
        InputError: a description, folder, fold or configuration is missing or wrong, a name comes twice, or no training case
            of a domain has a voxel of any class.
    """

    def __init__(
        self,
        domains: Sequence[str | Path],
        dataset_dirs: Mapping[str, str | Path],
        chain: str | Path,
        overrides: Mapping[str, Any] | None = None,
        fold: int = 0,
        folds: str | Mapping[str, str] = "auto",
        shape: NetworkShape | Mapping[str, Any] | None = None,
        cache_gb: float = 8.0,
    ) -> None:
        if not domains:
            raise InputError("domains: name at least one domain to train")
        letters = [Path(path).stem for path in domains]
        if len(letters) > 1 and all(len(letter) == 1 for letter in letters):  # a text, which a configuration goes through so
            raise InputError(f"domains: '{''.join(letters)}' is no list; give --domains \"['{''.join(letters)}']\"")
        if shape is not None and not isinstance(shape, NetworkShape):
            try:
                shape = NetworkShape.model_validate(dict(shape))
            except (TypeError, ValueError) as error:
                raise InputError(f"shape: needs patch_size, strides and kernel_sizes of three numbers each ({error})") from None
        self.cache_bytes = cache_gb * 1e9
        self._sets: dict[str, DomainSet] = {}
        for path in domains:
            domain = Domain.from_file(path)
            if domain.name in self._sets:
                raise InputError(f"{path}: a domain named '{domain.name}' is in this training already; rename or leave out one")
            if domain.name not in dataset_dirs:
                raise InputError(
                    f"dataset_dirs: has no folder for domain '{domain.name}'; it has {', '.join(dataset_dirs) or 'none'}"
                )
            own_folds = folds if isinstance(folds, str) else folds.get(domain.name, "auto")
            self._sets[domain.name] = _domain_set(
                domain, dataset_dirs[domain.name], chain, overrides or {}, fold, own_folds, shape
            )

    def __getitem__(self, name: str) -> DomainSet:
        return self._sets[name]

    def __iter__(self) -> Any:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)

    @property
    def networks(self) -> dict[str, dict[str, Any]]:
        """`U2Net`'s argument ``domains``."""
        return {name: item.domain.network for name, item in self.items()}

    @property
    def batch_sizes(self) -> list[int]:
        return [item.domain.sampling.batch_size for item in self.values()]

    @property
    def sizes(self) -> list[int]:
        """Training cases of each domain."""
        return [len(item.training) for item in self.values()]

    @property
    def identity(self) -> str:
        """Twelve digits that stand for the domains, their order and their cases: a training resumes only with the same."""
        what = [
            [name, item.domain.to_json(), [[c["case"] for c in cases] for cases in (item.training, item.validation)]]
            for name, item in self.items()
        ]
        return hashlib.sha256(repr(what).encode()).hexdigest()[:12]

    @cached_property
    def training_sets(self) -> dict[str, CacheDataset]:
        """Cases whose items are patches."""
        return {name: self._cached(item.training, item.training_transform) for name, item in self.items()}

    @cached_property
    def validation_set(self) -> ConcatDataset[Any]:
        """The prepared images and labels of all domains, one after the other, each with its ``domain``."""
        return ConcatDataset([self._cached(item.validation, item.validation_transform) for item in self.values()])

    def _cached(self, cases: list[dict[str, Any]], transform: Compose) -> CacheDataset:
        count = int(self._cached_share * len(cases))
        return CacheDataset(cases, transform, cache_num=count, num_workers=None, copy_cache=False, progress=count > 0)

    @cached_property
    def _cached_share(self) -> float:
        """How much of every domain's cases is kept in memory."""
        needs = {}
        for name, item in self.items():
            needs[name] = sum(
                len(cases) * float(np.mean([_case_bytes(case, transform) for case in cases[:SIZED_CASES]]))
                for cases, transform in ((item.training, item.training_transform), (item.validation, item.validation_transform))
            )
        share = min(1.0, self.cache_bytes / max(1.0, sum(needs.values())))
        listed = ", ".join(f"{name} {need / 1e9:.2f} GB" for name, need in needs.items())
        logger.info("prepared cases take about %s; %.0f %% of them stay in memory (cache_gb)", listed, 100 * share)
        return share


def _domain_set(
    domain: Domain,
    dataset_dir: str | Path,
    chain: str | Path,
    overrides: Mapping[str, Any],
    fold: int,
    folds: str,
    shape: NetworkShape | None,
) -> DomainSet:
    if shape is not None:
        domain = domain.squeezed(shape)
    path = Path(chain)
    if not path.is_file():
        raise InputError(f"{path}: no such file; chain is a bundle's configs/chain.json")
    parser = ConfigParser()
    parser.read_config(path)
    for key, value in overrides.items():
        try:
            if "#" not in key and "::" not in key:
                parser[key]  # MONAI would add what is not there, and nothing would use it
            parser[key] = value
        except (KeyError, ValueError, IndexError, TypeError):
            raise InputError(f"chain_overrides: {path} has no '{key}'; its values are {', '.join(parser.get())}") from None
    parser["domain"] = domain
    parts = [parser.get_parsed_content(part) for part in ("training", "validation", "inferer", "postprocessing")]
    training, validation = (
        [{**case, "domain": domain.name} for case in cases]
        for cases in (training_cases(domain, dataset_dir, fold, folds), datalist(dataset_dir, "validation", fold, folds))
    )
    return DomainSet(domain, training, validation, *parts)


def _case_bytes(case: dict[str, Any], transform: Compose) -> int:
    """Memory that the prepared case takes: what comes before the first random transform is kept."""
    cache: Any = CacheDataset([case], transform, cache_num=1, progress=False)._cache
    return sum(_bytes(value) for value in cache[0].values())


def _bytes(value: Any) -> int:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return int(value.nbytes)
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
        return sum(_bytes(item) for item in value)
    return 0
