"""Template + domain + facts → the text of every generated file of a bundle.

A slot is a name in double braces. A JSON string that is one slot and nothing else becomes the slot's value, of any type;
within longer strings, in keys and in other texts its value is put in as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from custom_components.bundles.card import card_slots, license_slots, ordinal, spacing_text
from custom_components.bundles.facts import Facts
from custom_components.bundles.results import metrics
from custom_components.domain import Domain

__all__ = ["compact_json", "generated_files"]

TEMPLATE = Path(__file__).with_name("template")
SLOT = re.compile(r"\{\{(\w+)\}\}")
WIDTHS = (16, 32, 64, 128, 256, 512)
SUPERVISION = (1.0, 0.5, 0.25)
MODELS_README = "models/README.md"  # only where there are no weights


def generated_files(
    domain: Domain,
    facts: Facts,
    bundle: str,
    parts: Mapping[str, str] | None = None,
    results: Mapping[str, Any] | None = None,
) -> dict[str, str | None]:
    """Every generated file of a bundle.

    Args:
        domain: the task.
        facts: what a person wrote about it.
        bundle: name of the bundle's folder.
        parts: Markdown that a person wrote, by the name of its place in the model card (``docs/parts/<name>.md``).
        results: what ``evaluate.json`` wrote as ``scores.json``.

    Returns:
        Path within the bundle to the file's text; None for a file that must not be there.

    Raises:
        InputError: domain and facts do not belong together, or the results are malformed.
    """
    facts.check(domain)
    slots = _config_slots(domain, facts, bundle, results)
    files: dict[str, str | None] = {"LICENSE": _template("LICENSE")}
    for path in sorted((TEMPLATE / "configs").iterdir()):
        name, text = f"configs/{path.name}", _template(f"configs/{path.name}")
        if path.suffix == ".json":
            text = json.dumps(_filled(json.loads(text), slots), indent=4, ensure_ascii=False) + "\n"
        files[name] = text
    card = card_slots(domain, facts, bundle, slots["channels"], dict(parts or {}), results)
    files["docs/README.md"] = _text(_template("docs/README.md"), card)
    files["docs/data_license.txt"] = _text(_template("docs/data_license.txt"), license_slots(domain, facts))
    files[MODELS_README] = None if facts.weights else _text(_template("docs/no_weights.md"), card)
    return files


def compact_json(values: Any, indent: int = 0, width: int = 120) -> str:
    """JSON with what fits on a line on one line, as a person would write a domain.json."""
    flat = json.dumps(values, ensure_ascii=False)
    if not isinstance(values, dict | list) or not values or (indent and len(flat) + indent <= width):
        return flat
    inner = " " * (indent + 4)
    if isinstance(values, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {compact_json(v, indent + 4, width)}" for key, v in values.items()]
        begin, end = "{", "}"
    else:
        items = [compact_json(v, indent + 4, width) for v in values]
        begin, end = "[", "]"
    return f"{begin}\n{inner}" + f",\n{inner}".join(items) + f"\n{' ' * indent}{end}"


def _config_slots(domain: Domain, facts: Facts, bundle: str, results: Mapping[str, Any] | None) -> dict[str, Any]:
    levels = len(domain.strides) + 1
    widths = list(facts.channels) if facts.channels else [*WIDTHS, *[WIDTHS[-1]] * levels][:levels]
    heads = len([level for level in (1, 2) if level < levels - 1])
    prepared = _prepared(domain, facts)
    classes = [f"{index} is {facts.classes[name]}" for index, name in enumerate(domain.classes, 1)]
    logits = [f"channel {text}" for text in classes]
    return {
        "bundle": bundle,
        "domain": domain.name,
        "dataset": facts.dataset,
        "channels": widths,
        "supervision_weights": list(SUPERVISION[: heads + 1]),
        "cache_rate": facts.cache_rate,
        **_original_slots(domain, facts, levels),
        "title": facts.title,
        "version": facts.version,
        "changelog": dict(facts.changelog),
        "task": facts.task,
        "description": facts.description + ("" if facts.weights else " (configuration only: no trained weights yet)"),
        "data_source": f"{facts.dataset}{f' of {facts.data.collection}' if facts.data.collection else ''}, {facts.data.url}",
        "image_classes": prepared,
        "label_classes": f"single channel data, {', '.join(classes)}, 0 is everything else",
        "pred_classes": f"{domain.out_channels} channels of logits, {', '.join(logits)}, channel 0 is everything else",
        "eval_metrics": metrics(results["summary"]) if results else {},
        "references": list(facts.references),
        "modality": domain.modality,
        "in_channels": domain.in_channels,
        "out_channels": domain.out_channels,
        "spatial_shape": [f"{size}*n" for size in domain.patch_size],
        "channel_def": {str(index): name for index, name in enumerate(domain.channels)},
        "class_def": {str(index): name for index, name in enumerate(("background", *domain.classes))},
    }


def _original_slots(domain: Domain, facts: Facts, levels: int) -> dict[str, Any]:
    """The published recipe: its own strides and batch where the domain is in it, else the domain's."""
    original = facts.original
    strides = [list(s) for s in domain.strides]
    if original is not None:
        strides = [[2 if step < pools else 1 for pools in original.pools] for step in range(levels - 1)]
    return {
        "original_channels": [16 * 2**level for level in range(levels)],
        "original_strides": strides,
        "original_kernels": [[3, 3, 3]] * levels,
        "original_batch_size": original.batch_size if original else domain.sampling.batch_size,
        "original_mirror_axes": list(original.mirror_axes if original else domain.augmentation.mirror.axes),
        "original_keep": original.keep if original else 1,
        "original_rules": dict.fromkeys(domain.classes, "@rule"),
    }


def _prepared(domain: Domain, facts: Facts) -> str:
    """What the network's input is, in one line."""
    rule = domain.intensity
    steps = [f"values below {rule.floor:g} set to it"] if rule.floor is not None and domain.modality == "CT" else []
    if rule.percentiles is not None:
        low, high = (f"{p:g}{ordinal(p)}" for p in rule.percentiles)
        steps.append(f"clipped to the {low} and {high} percentile")
    voxels = "all voxels" if rule.statistics == "all" else f"{rule.statistics} voxels"
    count = "single" if domain.in_channels == 1 else str(domain.in_channels)
    facing = "axes z (superior), y (anterior), x (right)"
    steps.append(f"mean 0 and standard deviation 1 over {voxels}")
    return f"{count} channel data, {facts.image}, {spacing_text(domain)}, {facing}, {', '.join(steps)}"


def _filled(values: Any, slots: Mapping[str, Any]) -> Any:
    if isinstance(values, str):
        whole = SLOT.fullmatch(values)
        return slots[whole[1]] if whole else _text(values, slots)
    if isinstance(values, dict):
        return {_text(key, slots): _filled(value, slots) for key, value in values.items()}
    return [_filled(value, slots) for value in values] if isinstance(values, list) else values


def _text(text: str, slots: Mapping[str, Any]) -> str:
    return SLOT.sub(lambda match: str(slots[match[1]]), text)


@cache
def _template(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")
