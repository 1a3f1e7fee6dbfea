"""`Facts`: what a person wrote about a bundle, beside its domain; read from ``docs/facts.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.strict_json import parse_json

__all__ = ["Data", "Facts", "Original"]

Text = Annotated[str, Field(min_length=1)]
Version = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+(\.[0-9]+)?([a-z0-9.+]*)$")]
UNKNOWN = "not stated"


def _folder_name(value: str) -> str:
    if value in ("", ".", "..") or set(value) & set("/\\'\"$@{}") or not value.isprintable():
        raise ValueError("must be the name of a folder such as Task04_Hippocampus: no slashes, quotes, braces, $ or @")
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Strict):
    """The data set that the weights were, or are to be, trained on.

    Attributes:
        about: what the images and labels are, as part of a sentence.
        collection: where the data set belongs; ``citation`` names its entry of the references, by number.
        url: where it can be had.
        institution: where the images were made.
        licence, licence_url: of the data, and so of weights trained on it.
        attribution: how its licence wants it named.
        notes: sentences about what is peculiar in the files.
    """

    about: Text
    collection: str | None = None
    citation: Annotated[int, Field(ge=1)] | None = None
    url: Text
    institution: str | None = None
    licence: Text
    licence_url: str | None = None
    attribution: tuple[Text, ...] = ()
    notes: tuple[Text, ...] = ()


class Original(_Strict):
    """What the published recipe has for this domain and `Domain` does not say.

    Attributes:
        batch_size: patches per step.
        pools: halvings along z, y, x; step i halves an axis where i is below its number.
        mirror_axes: reversed at random.
        keep: components of a label that stay.
    """

    batch_size: Annotated[int, Field(gt=0)]
    pools: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = (2,)
    keep: Literal[1, 2] = 1


class Facts(_Strict):
    """What a person wrote about a bundle.

    Attributes:
        title: of the bundle.
        dataset: name of the data set's folder, ``TaskNN_Name``.
        task, description: for the metadata; one sentence without a full stop.
        image: what one image is, as part of a sentence.
        classes: class name to what it is, as part of a sentence.
        tags: of the model card.
        data: the data set.
        references: in the order of their numbers; [1] is 3D U²-Net.
        changelog: version to what it changed, newest first; the first is the bundle's version.
        weights: whether trained weights are part of the bundle.
        channels: width of each level of the network, finest first; None doubles from 16 on.
        cache_rate: part of the preprocessed cases that training keeps in memory.
        original: the published recipe's values; None where the domain is not in the publication.
        limitations: sentences for the model card.
    """

    title: Text
    dataset: Annotated[str, AfterValidator(_folder_name)]
    task: Text
    description: Text
    image: Text
    classes: dict[str, Text]
    tags: tuple[Text, ...] = ()
    data: Data
    references: tuple[Text, ...]
    changelog: Annotated[dict[Version, Text], Field(min_length=1)]
    weights: bool = False
    channels: tuple[Annotated[int, Field(gt=0)], ...] | None = None
    cache_rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    original: Original | None = None
    limitations: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _citation(self) -> Facts:
        if self.data.citation is not None and self.data.citation > len(self.references):
            raise ValueError(f"data.citation: there is no reference {self.data.citation}")
        return self

    @classmethod
    def for_domain(cls, domain: Domain, dataset: str) -> Facts:
        """What can be said of a domain that nobody has written about yet; a person should go on from there.

        Raises:
            InputError: ``dataset`` is no folder's name.
        """
        words = {name: name.replace("_", " ") for name in domain.classes}
        modality = {"MR": "MRI", "CT": "CT"}[domain.modality]
        channels = " and ".join(domain.channels)
        image = f"{domain.organ} {modality}" + ("" if channels in (modality, domain.modality) else f", {channels}")
        return cls.from_dict(
            {
                "title": f"{domain.organ.capitalize()} {modality} segmentation",
                "dataset": dataset,
                "task": f"{domain.organ} segmentation",
                "description": f"A small separable 3D U-Net that segments {_and(list(words.values()))} in {modality}",
                "image": image,
                "classes": words,
                "tags": ["Segmentation", domain.modality, domain.organ.capitalize(), "Domain adapter"],
                "data": {"about": f"{image}, with {_and(list(words.values()))} labelled", "url": UNKNOWN, "licence": UNKNOWN},
                "references": [UNIVERSAL],
                "changelog": {"0.1.0": "configuration made from the template"},
            },
            f"facts of {domain.name}",
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str) -> Facts:
        """Validate a mapping as read from JSON; ``source`` is what an error calls it.

        Raises:
            InputError: a field is unknown, missing or malformed; the message names it.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            what = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
            raise InputError(f"{source}: {what}") from None

    @classmethod
    def from_file(cls, path: str | Path) -> Facts:
        """Read ``facts.json``.

        Raises:
            InputError: the file is absent, is no JSON object, or a field is unknown, missing or malformed.
        """
        try:
            values = parse_json(Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); give a bundle that write_bundle made") from None
        except ValueError as error:
            raise InputError(f"{path}: is not valid JSON ({error})") from None
        if not isinstance(values, dict):
            raise InputError(f"{path}: must hold one JSON object")
        return cls.from_dict(values, str(path))

    def check(self, domain: Domain) -> None:
        """See that the facts are of this domain.

        Raises:
            InputError: classes differ, or the widths or pools do not fit its levels.
        """
        levels = len(domain.strides) + 1
        if set(self.classes) != set(domain.classes):
            raise InputError(f"facts of {domain.name}: classes must describe {', '.join(domain.classes)}")
        if self.channels is not None and len(self.channels) != levels:
            raise InputError(f"facts of {domain.name}: channels has {len(self.channels)} widths, the domain {levels} levels")
        if self.original is not None and max(self.original.pools) != levels - 1:
            raise InputError(f"facts of {domain.name}: original.pools must have {levels - 1} as its largest, as the domain")

    @property
    def version(self) -> str:
        return next(iter(self.changelog))


UNIVERSAL = (
    "C. Huang, H. Han, Q. Yao, S. Zhu, S. K. Zhou: 3D U²-Net: A 3D Universal U-Net for Multi-domain Medical Image "
    "Segmentation. MICCAI 2019. https://arxiv.org/abs/1909.06012"
)


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
