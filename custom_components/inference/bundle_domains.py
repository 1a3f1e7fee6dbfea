"""Which domains a bundle has: one in ``configs/domain.json``, or one per file in ``configs/domains``."""

from __future__ import annotations

from pathlib import Path

from custom_components.domain import Domain
from custom_components.errors import InputError

__all__ = ["bundle_domain", "bundle_domains"]


def bundle_domains(bundle_dir: str | Path) -> dict[str, Path]:
    """Name of each domain of a bundle to the file of its description, sorted.

    Raises:
        InputError: the folder is no bundle.
    """
    bundle = Path(bundle_dir)
    if not bundle.is_dir():
        raise InputError(f"{bundle}: is no folder; give a bundle's, such as bundles/universal_segmentation")
    # Hidden files are those that a killed process was about to write.
    many = sorted(path for path in (bundle / "configs" / "domains").glob("*.json") if not path.name.startswith("."))
    if many:
        return {path.stem: path for path in many}
    one = bundle / "configs" / "domain.json"
    return {Domain.from_file(one).name: one}


def bundle_domain(bundle_dir: str | Path, name: str | None = None) -> Domain:
    """The description of one domain of a bundle.

    Args:
        bundle_dir: its folder.
        name: of the domain; None where the bundle has only one.

    Raises:
        InputError: the folder is no bundle or has no such domain, or ``name`` is None and there are several.
    """
    found = bundle_domains(bundle_dir)
    if name is None:
        if len(found) > 1:
            raise InputError(f"{bundle_dir}: has several domains, say which (--domain): {', '.join(found)}")
        name = next(iter(found))
    if name not in found:
        raise InputError(f"{bundle_dir}: has no domain '{name}'; it has {', '.join(found)}")
    domain = Domain.from_file(found[name])
    if domain.name != name:
        raise InputError(f"{found[name]}: describes domain '{domain.name}', not '{name}'; the file must have the domain's name")
    return domain
