"""The texts of a bundle's model card and data licence, from domain and facts."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from custom_components.bundles.facts import UNKNOWN, Facts
from custom_components.bundles.results import BEGIN, END, table
from custom_components.domain import Domain
from custom_components.errors import InputError

__all__ = ["PARTS", "card_slots", "license_slots"]

PARTS = ("description", "example", "data", "training", "limitations")
"""Places in the model card where a person's own Markdown goes (``docs/parts/<name>.md``)."""

WIDTH = 127
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NAMED = "if you name the data set as above and share what you derive from them under the same licence."
DEEDS = {
    "CC-BY-SA 4.0": f"You may use, share and adapt the weights, also commercially, {NAMED}",
    "CC-BY-NC-SA 4.0": f"You may use, share and adapt the weights for purposes that are not commercial, {NAMED}",
}
ABOUT = """The network is a separable 3D U-Net after 3D U²-Net [1]: in each convolution unit the depthwise filters,
norms, input and output layers belong to the domain, the pointwise filters to a trunk that other domains can share."""


def card_slots(
    domain: Domain,
    facts: Facts,
    bundle: str,
    channels: Sequence[int],
    parts: Mapping[str, str],
    results: Mapping[str, Any] | None,
) -> dict[str, str]:
    """Texts for the slots of ``docs/README.md`` and ``docs/no_weights.md``.

    Raises:
        InputError: a part has a name that is no place, or the results are malformed.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise InputError(f"{bundle}/docs/parts/{unknown[0]}.md: no such place in the model card; there are {', '.join(PARTS)}")
    run = bundle.removesuffix("_segmentation").split("_")[0]
    written = {name: text.strip("\n") for name, text in parts.items()}
    with_weights = facts.weights
    return {
        "title": facts.title,
        "tags": ", ".join(facts.tags) or "Segmentation",
        "description": _description(facts, written.get("description")),
        "weights": _weights(domain, with_weights),
        "example": f"\n{written['example']}\n" if "example" in written else "",
        "data": written.get("data") or _data(facts),
        "preprocessing": _preprocessing(domain),
        "performance": _performance(bundle, with_weights, results),
        "recipe": _recipe(facts),
        "training": f"\n{written['training']}\n" if "training" in written else _training(domain, channels),
        "input": _input(domain, facts),
        "output": _output(domain),
        "limitations": _limitations(facts, written.get("limitations")),
        "use": _use(domain, facts),
        "history": "\n".join(_wrapped(f"- {version}: {what}", indent="  ") for version, what in facts.changelog.items()),
        "references": "\n\n".join(_wrapped(f"[{i}] {text}") for i, text in enumerate(facts.references, 1)),
        "license": _license(facts),
        "bundle": bundle,
        "domain": domain.name,
        "dataset": facts.dataset,
        "run": run,
        "ckpt_hint": "" if with_weights else "; `--ckpt_dir` is where training put the weights",
        "ckpt": "" if with_weights else f" --ckpt_dir runs/{run}",
        "model": f"bundles/{bundle}/models/model.pt" if with_weights else f"runs/{run}/model.pt",
    }


def license_slots(domain: Domain, facts: Facts) -> dict[str, str]:
    """Texts for the slots of ``docs/data_license.txt``."""
    data = facts.data
    of = f" of {data.collection}" if data.collection else ""
    made = f"The weights in models/ were trained on {facts.dataset}{of} ({data.url}). No image of it is part of this bundle."
    later = (
        f"This bundle has no weights yet. Those that are trained on {facts.dataset}{of} ({data.url}) carry the licence of "
        "the data. No image of it is part of this bundle."
    )
    rows = [("Data set", [f"{facts.dataset}: {data.about}."])]
    rows += [("Source", [f"{data.institution}."])] if data.institution else []
    rows.append(("Licence", [_long_licence(data.licence), *([data.licence_url] if data.licence_url else [])]))
    rows += [("Attribution", list(data.attribution))] if data.attribution else []
    rows.append(("Changes", ["The images were used to fit the weights." if facts.weights else "None: nothing was trained yet."]))
    code = "The code and the configuration files of this bundle are under the Apache License 2.0 (LICENSE)."
    deed = DEEDS.get(data.licence, "What may be done with weights is for the licence above to say.")
    return {
        "title": facts.title,
        "statement": _wrapped(made if facts.weights else later, 118),
        "rows": "\n".join(_row(name, lines) for name, lines in rows),
        "rights": _wrapped(f"{deed} {code}", 118),
    }


def _weights(domain: Domain, there: bool) -> str:
    if there:
        return _wrapped(
            f"The weights come in two forms: `models/trunk.safetensors` with `models/{domain.name}.safetensors`, which the "
            "project's own tools read without unpickling anything, and `models/model.pt`, a plain state dict of the same "
            "numbers for MONAI's tools."
        )
    return _wrapped(
        "**This bundle has no trained weights yet.** It holds everything that is needed to train them, alone "
        "(`configs/train.json`) or as an adapter on the trunk of a universal network (`configs/adapt.json`). Until then, "
        "evaluation and inference end in an error that says so."
    )


def _data(facts: Facts) -> str:
    data = facts.data
    of = f" of {data.collection}" if data.collection else ""
    cited = f" [{data.citation}]" if data.citation else ""
    licence = f"Licence: {data.licence}, see [data_license.txt](data_license.txt)."
    if data.licence == UNKNOWN:
        licence = "Its licence is not stated: write it into `docs/facts.json`."
    where = "" if data.url == UNKNOWN else f" It can be had from {data.url}."
    text = f"{facts.dataset}{of}{cited}: {data.about}.{where} {licence} No image is part of this bundle."
    return "\n\n".join([_wrapped(text), *([_wrapped(" ".join(data.notes))] if data.notes else [])])


def _preprocessing(domain: Domain) -> str:
    rule = domain.intensity
    steps = [f"resampling to {spacing_text(domain)} (cubic B-spline, labels nearest)"]
    if rule.floor is not None and domain.modality == "CT":
        steps.append(f"values below {rule.floor:g} set to it")
    if rule.percentiles is not None:
        low, high = (f"{p:g}{ordinal(p)}" for p in rule.percentiles)
        steps.append(f"clipping to the {low} and {high} percentile")
    which = "all voxels" if rule.statistics == "all" else f"{rule.statistics} voxels"
    steps.append(f"mean 0 and standard deviation 1 over {which}")
    return _wrapped(
        "As `configs/inference.json` and `configs/domain.json` have it: axes turned to z (superior), y (anterior), x (right); "
        f"crop to the non-zero box with a margin; {'; '.join(steps)}. Sizes are voxels, lengths mm."
    )


def _performance(bundle: str, with_weights: bool, results: Mapping[str, Any] | None) -> str:
    if not with_weights:
        return "Not known: there are no trained weights yet."
    if results is None:
        return f"{BEGIN}\nNot scored yet.\n{END}"
    try:
        return f"{BEGIN}\n{table(results)}\n{END}"
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{bundle}/docs/results.json: is no scores.json of evaluate.json ({error!r} is missing); evaluate again"
        ) from None


def _description(facts: Facts, written: str | None) -> str:
    return f"{written} {ABOUT}" if written else _wrapped(f"{facts.description}. {ABOUT}")


def _recipe(facts: Facts) -> str:
    other = "" if facts.original else ", with this domain's own strides, as the domain is not in [1]"
    text = _wrapped(
        "Everything is in `configs/train.json` and `configs/domain.json`; `configs/original_recipe.json` is the recipe of [1] as "
        f"an override{other}. The domain's batch, patch, augmentation and sampling values are in `domain.json`."
    )
    if facts.cache_rate == 1:
        return text
    memory = _wrapped(
        "The preprocessed cases are too many for the memory of most machines, so `train.json` keeps "
        f"{facts.cache_rate:.0%} of them there (`--cache_rate`) and reads and resamples the others whenever a patch is drawn. "
        "`configs/disk_cache.json` keeps them all on disk, which trains far faster."
    )
    return f"{text}\n\n{memory}"


def _training(domain: Domain, channels: Sequence[int]) -> str:
    text = (
        f"The network has {len(channels)} levels of {', '.join(map(str, channels))} channels. No training run of this recipe on "
        "real data has been reported: rate, number of steps, augmentation and component rules are starting points."
    )
    return f"\n{_wrapped(text)}\n"


def _input(domain: Domain, facts: Facts) -> str:
    what = f"One channel: {facts.image}"
    if domain.in_channels > 1:
        what = f"{_number(domain.in_channels)} channels, in this order: {', '.join(domain.channels)} ({facts.image})"
    return _wrapped(f"{what}, preprocessed as above, patches of {' × '.join(map(str, domain.patch_size))} voxels (z, y, x).")


def _output(domain: Domain) -> str:
    names = ", ".join(("background", *domain.classes))
    return _wrapped(
        f"{_number(domain.out_channels)} channels of logits: {names}. After the network: the class with the largest logit, the "
        "component rules of `domain.json`, and the way back onto the input's own grid, axes and affine."
    )


def _use(domain: Domain, facts: Facts) -> str:
    names = ", ".join(name.replace("_", " ") for name in domain.classes)
    return _wrapped(
        f"Research on {names} in images of this kind: {facts.image}. Not for diagnosis or treatment. Other scanners, protocols, "
        "ages or diseases than those of the data can do worse without a sign of it: look at every label before you use it."
    )


def _limitations(facts: Facts, written: str | None) -> str:
    if written:
        return written
    items = list(facts.limitations)
    if not facts.weights:
        items.insert(0, "No weights have been trained yet: how well the network does on this task is not known.")
    if "NC" in facts.data.licence.split("-"):
        items.append("The data's licence excludes commercial use, and so does that of weights trained on it.")
    items.append("For research. Not a medical device, not to be used for diagnosis or treatment.")
    return "\n".join(_wrapped(f"- {item}", indent="  ") for item in items)


def _license(facts: Facts) -> str:
    code = "Code and configuration: Apache License 2.0, see [LICENSE](../LICENSE)."
    if facts.weights:
        weights = f"Weights: {facts.data.licence} as the data they were trained on, see [data_license.txt](data_license.txt)."
    else:
        weights = (
            f"Weights trained on {facts.dataset} carry the licence of the data ({facts.data.licence}), see "
            "[data_license.txt](data_license.txt)."
        )
    return _wrapped(f"{code} {weights}")


def spacing_text(domain: Domain) -> str:
    """``1 mm``, or the three sizes where they differ."""
    sizes = [f"{s:g}" for s in domain.spacing]
    return f"{sizes[0]} mm" if len(set(sizes)) == 1 else f"{' × '.join(sizes)} mm (z, y, x)"


def ordinal(value: float) -> str:
    """What follows a number: ``st``, ``nd``, ``rd`` or ``th``."""
    if value != int(value) or int(value) % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(int(value) % 10, "th")


def _long_licence(name: str) -> str:
    longer = {
        "CC-BY-SA 4.0": "Creative Commons Attribution-ShareAlike 4.0 International (CC-BY-SA 4.0)",
        "CC-BY-NC-SA 4.0": "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International (CC-BY-NC-SA 4.0)",
    }
    return longer.get(name, name)


def _row(name: str, lines: Sequence[str]) -> str:
    blank = " " * 14
    wrapped = [w for line in lines for w in textwrap.wrap(line, WIDTH - 14, break_long_words=False, break_on_hyphens=False)]
    return f"{name:<14}" + f"\n{blank}".join(wrapped)


def _number(value: int) -> str:
    return (NUMBERS[value] if value < len(NUMBERS) else str(value)).capitalize()


def _wrapped(text: str, width: int = WIDTH, indent: str = "") -> str:
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
