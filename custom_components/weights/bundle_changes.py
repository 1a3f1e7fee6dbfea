"""Adapters that leave a bundle or enter it: export, import, replacement and removal, each of them whole or not at all.

Files change one after another, so a process that is killed can stop in between. The order is such that the adapters and
their trunk are a network at every moment, and that ``model.pt``, the last, is either the old one or the new one; doing the
same again completes it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from custom_components.atomic import atomic_path
from custom_components.domain import Domain
from custom_components.weights.adapters import (
    MODEL_FILE,
    TRUNK_FILE,
    adapter_path,
    adapter_paths,
    load_adapter,
    load_network,
    load_trunk,
)
from custom_components.weights.bundle_files import (
    Adapter,
    check_bundle,
    describe_header,
    description_path,
    find_domain,
    models_of,
    take_adapter,
)
from custom_components.weights.files import WeightsError, write_tensors
from custom_components.weights.headers import AdapterHeader, AdapterNotes, check_agrees, with_notes
from custom_components.weights.notes import bundle_licence, bundle_results, read_metrics, read_training
from custom_components.weights.states import check_state

if TYPE_CHECKING:
    from custom_components.networks import U2Net

__all__ = ["export_adapter", "import_adapter", "remove_adapter", "replace_adapter"]


def export_adapter(
    bundle_dir: str | Path,
    name: str,
    output_dir: str | Path,
    licence: str | None = None,
    training: str | Path | None = None,
    results: str | Path | None = None,
) -> Path:
    """Write one adapter with its description in it, so that the file alone is enough to import it elsewhere.

    Args:
        bundle_dir: the bundle.
        name: of the domain.
        output_dir: where ``<domain>.safetensors`` is written; made if missing.
        licence: written into the header; None keeps what it says, or takes what the bundle's facts say of its data.
        training: JSON object about its training, written into the header; None keeps what it says.
        results: scores of it (see `read_metrics`), written into the header; None keeps what it says, or takes those that
            the bundle ships.

    Returns:
        The file.

    Raises:
        InputError: the bundle has no such domain or no description of it, the notes cannot be read or are of another domain,
            a file exists in its place that differs, or see `list_adapters`.
    """
    adapter, tensors = take_adapter(Path(bundle_dir), name)
    target = adapter_path(output_dir, name)
    if target.resolve() == adapter.path.resolve():
        raise WeightsError(f"{target}: is the bundle's own file; choose another folder")
    if results is None and adapter.header.metrics is None:
        results = bundle_results(bundle_dir, name)
    notes = AdapterNotes(
        description=adapter.domain,
        training=read_training(training) if training is not None else None,
        metrics=read_metrics(results, adapter.domain) if results is not None and adapter.domain is not None else None,
        licence=licence or adapter.header.licence or bundle_licence(bundle_dir),
    )
    header = with_notes(adapter.header, notes, adapter.path)
    if target.exists() and not _holds(target, header):
        raise WeightsError(f"{target}: exists and is another file; choose another folder")
    write_tensors(target, tensors, header.to_json())
    return target


def import_adapter(file: str | Path, bundle_dir: str | Path, description: str | Path | None = None) -> Path:
    """Add an adapter to a bundle of many domains: the file, its description and a new ``model.pt``, in this order.

    An import that was stopped is completed by doing it again.

    Args:
        file: an adapter trained with the bundle's trunk.
        bundle_dir: with a folder ``configs/domains``.
        description: a ``domain.json``, for a file that has none in it.

    Returns:
        The adapter's place in the bundle.

    Raises:
        InputError: the file is another trunk's or another architecture's, damaged, changed or not finite; it has no
            description, or one that does not fit; the bundle has a domain of this name; or a file cannot be written.
    """
    file, bundle, models = Path(file), Path(bundle_dir), models_of(bundle_dir)
    _must_hold_many(bundle)
    with _locked(models):
        header, tensors, given = _read(file, models, description)
        target, text = adapter_path(models, given.name), description_path(bundle, given.name)
        _must_be_new(target, text, header, given)
        _put(bundle, file, header, tensors, given)
    return target


def replace_adapter(file: str | Path, bundle_dir: str | Path) -> Path:
    """Add an adapter to a bundle of many domains, in place of one of the same name if there is one.

    The adapter is there at every moment, the earlier or the new one, and so is its description; where that differs too, it is
    in the header alone for the moment in between. What is replaced stays in ``models/removed``. A replacement that was
    stopped is completed by doing it again.

    Args:
        file: an adapter trained with the bundle's trunk, with a description in it.
        bundle_dir: with a folder ``configs/domains``.

    Returns:
        The adapter's place in the bundle.

    Raises:
        InputError: the new file is none that `import_adapter` takes, the earlier one is damaged, or a file cannot be written;
            the bundle then has the earlier one.
    """
    file, bundle, models = Path(file), Path(bundle_dir), models_of(bundle_dir)
    _must_hold_many(bundle)
    with _locked(models):
        header, tensors, given = _read(file, models)
        target = adapter_path(models, given.name)
        if target.exists() and not _holds(target, header):
            earlier, weights = take_adapter(bundle, given.name)
            copy = _keep_copy(bundle, earlier, weights)
            if earlier.header.description is None:  # for the moment when its text is gone and the new file not yet there
                write_tensors(target, weights, describe_header(copy).to_json())
        _put(bundle, file, header, tensors, given)
    return target


def remove_adapter(bundle_dir: str | Path, name: str) -> Path:
    """Take a domain out of a bundle of many; a copy that can be imported again stays in ``models/removed``.

    A removal that was stopped is completed by doing it again.

    Returns:
        The copy.

    Raises:
        InputError: there is no such domain, or it is the only one; or a file cannot be written.
    """
    bundle, models = Path(bundle_dir), models_of(bundle_dir)
    _must_hold_many(bundle)
    with _locked(models):
        if not adapter_path(models, name).exists() and (copies := _copies(models, name)) and check_bundle(bundle):
            copy, rest = copies[0], load_network(models).state_dict()
        else:
            adapter, tensors = take_adapter(bundle, name)
            rest = _without(load_network(models), name, models)
            copy = _keep_copy(bundle, adapter, tensors)
        with atomic_path(models / MODEL_FILE) as whole:
            write_tensors(whole, rest)
            for gone in (adapter_path(models, name), description_path(bundle, name)):
                try:
                    gone.unlink(missing_ok=True)
                except OSError as error:
                    raise WeightsError(f"{gone}: cannot be removed ({error.strerror}); see to its folder's permissions") from None
    return copy


def _read(
    file: Path, models: Path, description: str | Path | None = None
) -> tuple[AdapterHeader, dict[str, torch.Tensor], Domain]:
    """An adapter for the trunk in ``models`` and its description, which its header then has too."""
    header, tensors = load_adapter(file, load_trunk(models / TRUNK_FILE)[0])
    given = Domain.from_file(description) if description is not None else header.domain_description(file)
    if given is None:
        raise WeightsError(f"{file}: has no description in it; give the domain.json of its domain as well")
    check_agrees(file, header, given)
    return with_notes(header, AdapterNotes(description=given), file), tensors, given


def _put(bundle: Path, file: Path, header: AdapterHeader, tensors: Mapping[str, torch.Tensor], given: Domain) -> None:
    """Write an adapter, its description and a new ``model.pt``, in this order; nothing where it does not fit the others."""
    models = models_of(bundle)
    target, text = adapter_path(models, given.name), description_path(bundle, given.name)
    network = load_network(models)
    if given.name in network.domains:  # what is replaced, or what an import that was stopped has left
        del network.domains[given.name], network.shapes[given.name]
    try:
        network.add_domain(given.name, header.shape.model_dump(mode="json"))
    except ValueError as error:
        raise WeightsError(f"{file}: does not fit the bundle ({error})") from None
    check_state(network.adapter_state(given.name), tensors, str(file))
    network.load_state_dict(dict(tensors), strict=False)
    described = text.exists() and find_domain(bundle, given.name) == given  # then it stays as somebody wrote it
    # Left in reverse: the adapter first, which alone changes no other domain, and model.pt last.
    with ExitStack() as places:
        write_tensors(places.enter_context(atomic_path(models / MODEL_FILE)), network.state_dict())
        if not described:
            places.enter_context(atomic_path(text)).write_text(given.to_json() + "\n", encoding="utf-8")
        write_tensors(places.enter_context(atomic_path(target)), tensors, header.to_json())
        if text.exists() and not described:
            # Of the adapter that is replaced, and may not fit the new one. Until the new text is there, headers say what it does.
            text.unlink()


def _keep_copy(bundle: Path, adapter: Adapter, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write an adapter of the bundle into ``models/removed``, with its description in it."""
    header = with_notes(adapter.header, AdapterNotes(description=adapter.domain), adapter.path)
    copy = models_of(bundle) / "removed" / adapter.path.name
    if copy.exists() and not _holds(copy, header):
        copy = copy.with_name(f"{header.domain}_{header.sha256[:12]}.safetensors")
    write_tensors(copy, tensors, header.to_json())
    return copy


def _copies(models: Path, name: str) -> list[Path]:
    """Copies of a domain that was removed, the newest first."""
    found = [path for path in adapter_paths(models / "removed") if describe_header(path).domain == name]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _without(network: U2Net, name: str, models: Path) -> dict[str, torch.Tensor]:
    if len(network.domains) == 1:
        raise WeightsError(f"{models}: '{name}' is its only domain, and a bundle without any is none; import another one first")
    return {key: value for key, value in network.state_dict().items() if not key.startswith(f"domains.{name}.")}


def _must_be_new(target: Path, text: Path, header: AdapterHeader, domain: Domain) -> None:
    """Refuse to replace anything but what an import of the very same adapter has left."""
    what = f"the bundle has a domain '{domain.name}' already; remove it first, or rename the new one and train it again"
    if target.exists() and not _holds(target, header):
        raise WeightsError(f"{target}: exists, {what}")
    if text.exists() and find_domain(text.parents[2], domain.name) != domain:
        raise WeightsError(f"{text}: exists and differs, {what}")


def _holds(path: Path, header: AdapterHeader) -> bool:
    """Whether a file is the adapter of this header, whatever else is said of it."""
    try:
        there = describe_header(path)
    except WeightsError:
        return False
    return (there.domain, there.sha256, there.trunk) == (header.domain, header.sha256, header.trunk)


def _must_hold_many(bundle: Path) -> None:
    if not (bundle / "configs" / "domains").is_dir():
        raise WeightsError(
            f"{bundle}: is a bundle of one domain (it has no configs/domains); its domains cannot be changed, "
            "use a bundle of many such as bundles/universal_segmentation"
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time: model.pt must hold what all of them did. The lock ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WeightsError(f"{folder}: another process changes it; wait until it has ended, and try again") from None
        yield
    finally:
        os.close(handle)
