"""Which bundles a server can offer: those whose weights are there and fit, and why the others are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.strict_json import parse_json
from custom_components.weights.adapters import TRUNK_FILE, adapter_paths
from custom_components.weights.bundle_files import list_adapters

__all__ = ["Bundle", "Collection"]

CONFIG = Path("configs") / "inference.json"


@dataclass(frozen=True)
class Bundle:
    """A bundle and the copy of it that trained adapters have gone into.

    Attributes:
        shipped: its folder; nothing is written there.
        own: where the copy is, or will be once an adapter was trained (`custom_components.label_app.own_copy`).
    """

    shipped: Path
    own: Path

    @property
    def name(self) -> str:
        return self.shipped.name

    @property
    def folder(self) -> Path:
        """The copy where there is one, else the shipped bundle."""
        return self.own if self.own.is_dir() else self.shipped

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def shipped_with_many(self) -> bool:
        """Whether it came as a bundle of many domains."""
        return (self.shipped / "configs" / "domains").is_dir()

    def domains(self) -> dict[str, Domain]:
        """The domains that can be used now: an adapter that fits the trunk, and a description that fits the adapter.

        Raises:
            InputError: there are no weights, or a file is damaged or does not fit.
        """
        return _domains(self.folder)

    def names(self) -> list[str]:
        """Of the domains that can be used now; none where weights are missing or damaged."""
        try:
            return list(self.domains())
        except InputError:
            return []

    def shipped_domains(self) -> dict[str, Domain]:
        """The same of the shipped bundle."""
        return _domains(self.shipped)

    def metadata(self) -> dict[str, str]:
        """``description`` and ``version`` of its metadata; empty where it has none."""
        try:
            values = parse_json((self.folder / "configs" / "metadata.json").read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(values, dict):
            return {}
        return {key: str(values[key]) for key in ("description", "version") if key in values}


@dataclass(frozen=True)
class Collection:
    """A folder of bundles.

    Attributes:
        folder: with one bundle in each of its folders.
        state: what a server writes: copies of bundles, trainings.
        names: of the bundles to offer; empty for all.
    """

    folder: Path
    state: Path
    names: Sequence[str] = ()

    def bundles(self) -> list[Bundle]:
        """All of them, with or without weights.

        Raises:
            InputError: the folder has no bundle, or not the one that is asked for.
        """
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder; give one with bundles in it, such as bundles")
        found = self._found()
        if missing := sorted(set(self.names) - set(found)):
            raise InputError(f"{self.folder}: has no bundle {', '.join(missing)}; it has {', '.join(found) or 'none'}")
        names = [name for name in found if name in self.names] if self.names else found
        if not names:
            raise InputError(f"{self.folder}: has no bundle (a folder with {CONFIG}); give one such as bundles")
        return [Bundle(self.folder / name, self.state / "bundles" / name) for name in names]

    def split(self) -> tuple[list[Bundle], dict[str, str]]:
        """Bundles that can be served, and the names of the others with the reason.

        Raises:
            InputError: as `bundles`.
        """
        served: list[Bundle] = []
        left_out: dict[str, str] = {}
        for bundle in self.bundles():
            try:
                if bundle.domains():
                    served.append(bundle)
                else:
                    left_out[bundle.name] = f"{bundle.models}: has no adapter with a description"
            except InputError as error:
                left_out[bundle.name] = str(error)
        return served, left_out

    def descriptions(self) -> dict[str, Domain]:
        """Every domain that a bundle in the folder describes, offered or not, with weights or without, by name."""
        found: dict[str, Domain] = {}
        for name in self._found():
            configs = self.folder / name / "configs"
            for path in [configs / "domain.json", *sorted((configs / "domains").glob("*.json"))]:
                if path.is_file() and not path.name.startswith("."):  # hidden: about to be written
                    domain = Domain.from_file(path)
                    found.setdefault(domain.name, domain)
        return found

    def _found(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if (path / CONFIG).is_file())


def _domains(bundle: Path) -> dict[str, Domain]:
    if not (trunk := bundle / "models" / TRUNK_FILE).is_file():
        raise InputError(f"{trunk}: no such file, so the bundle has no trained weights; train it, its docs/README.md says how")
    texts = sorted(path for path in (bundle / "configs").glob("**/*.json") if not path.name.startswith("."))
    try:
        stats = [(file, file.stat()) for file in (trunk, *adapter_paths(bundle / "models"), *texts)]
        return dict(_checked(bundle, tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in stats)))
    except OSError as error:  # it went while it was looked at
        raise InputError(f"{error.filename or bundle}: cannot be read ({error.strerror}); try again") from None


@lru_cache(maxsize=64)
def _checked(bundle: Path, files: tuple[tuple[Path, int, int], ...]) -> dict[str, Domain]:
    """Checking reads every tensor; it is done again when a file has changed."""
    return {adapter.header.domain: adapter.domain for adapter in list_adapters(bundle) if adapter.domain is not None}
