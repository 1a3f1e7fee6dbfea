"""A page of results: what the runs of `custom_components.experiments.setups` reached, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.experiments.parameters import count_parameters
from custom_components.experiments.setups import SETUPS

__all__ = ["PUBLISHED", "paired_difference", "results_page"]

RESAMPLES = 10_000
PUBLISHED = ("heart_mri", "liver_ct", "hippocampus_mri", "prostate_mri", "pancreas_ct")
"""The domains of the paper."""


def results_page(
    results: Sequence[Mapping[str, Any]], described: Mapping[str, Domain], notes: str = "", figure: str | None = None
) -> str:
    """Tables of Dice by set-up, domain and class, of differences to the independent networks, and of sizes and times.

    Results of different numbers of steps per domain are not compared: each budget has tables of its own.

    Args:
        results: as `custom_components.experiments.results.read_results` gives them.
        described: name to domain, of those in the results and those of the paper.
        notes: Markdown of whoever made the runs, such as how their settings were found; stands after the introduction.
        figure: address of `draw_results`'s picture, as seen from the page.

    Raises:
        InputError: results of different folds, options or configurations, or two of one run with one budget.
    """
    folds = sorted({r["fold"] for r in results})
    if len(folds) > 1:
        raise InputError(f"results of folds {', '.join(map(str, folds))} cannot stand in one table; keep one fold")
    seen = [(r["run"], r["steps_per_domain"]) for r in results]
    if doubled := [pair for pair in seen if seen.count(pair) > 1]:
        raise InputError(f"two results of {doubled[0][0]} at {doubled[0][1]} steps per domain; keep one")
    for key, what in (("options", "other options"), ("configurations", "other configurations of the bundle")):
        if len({json.dumps(r[key]) for r in results}) > 1:
            raise InputError(f"results of trainings with {what} cannot stand in one table; keep one kind")
    described_as = {pair for r in results for pair in r["descriptions"].items()}
    if len(described_as) > len(dict(described_as)):
        raise InputError("results of trainings with other descriptions of a domain cannot stand in one table; keep one kind")
    options: list[str] = results[0]["options"]
    setups = [name for name in SETUPS if any(r["setup"] == name for r in results)]
    domains = list(dict.fromkeys(d for r in results for d in r["scores"]))
    budgets = sorted({r["steps_per_domain"] for r in results})
    parts = [
        "# Results",
        "Made by `python scripts/results_page.py` from the JSON files of `scripts/compare_setups.py`, which hold every case, the "
        "command, commit, machine and date of each run. Do not edit.",
        f"Every network had {_listed([str(n) for n in budgets], 'or')} steps of each of its domains, with the rates and settings "
        f"of `bundles/universal_segmentation/configs/train.json`{_also(options)}, and is scored on the validation cases of fold "
        f"{folds[0]}, which took no part in its training and chose none of its weights. Dice, mean over cases, with a 95 % "
        "percentile bootstrap over cases.",
        "\n".join(f"- **{name}**: {SETUPS[name]}" for name in setups),
        *([notes.strip()] if notes.strip() else []),
        *([f"![Mean Dice of every domain and set-up, with intervals]({figure})"] if figure else []),
        *(part for steps in budgets for part in _of_budget([r for r in results if r["steps_per_domain"] == steps], steps)),
        "## Sizes and times",
        _size_table(results, setups, budgets),
        "## Parameters of one network for all, and of one for each",
        _parameter_table({"of the paper": PUBLISHED, "with real data": domains}, described),
        "## How it was made",
        _made(results),
    ]
    return "\n\n".join(parts) + "\n"


def _also(options: Sequence[str]) -> str:
    return f" but `{' '.join(options)}`" if options else ""


def _of_budget(results: Sequence[Mapping[str, Any]], steps: int) -> list[str]:
    domains = list(dict.fromkeys(d for r in results for d in r["scores"]))
    setups = [name for name in SETUPS if any(r["setup"] == name for r in results)]
    scores = {name: _scores(r for r in results if r["setup"] == name) for name in setups}
    return [
        f"## Dice, {steps} steps of each domain",
        _dice_table(scores, domains, setups),
        f"### Against the independent networks, {steps} steps",
        _difference_table(scores, domains, setups),
        *_said(scores, domains, setups),
    ]


def paired_difference(cases: Mapping[str, Any], reference: Mapping[str, Any], seed: int = 0) -> tuple[float, float, float] | None:
    """Mean difference of the cases' mean Dice over classes, with a 95 % bootstrap over the cases that both have.

    Args:
        cases, reference: case → class → metric → score, as in ``scores.json``.

    Returns:
        Mean, lower and upper end; None without common cases.
    """
    common = sorted(cases.keys() & reference.keys())
    pairs = [(_case_mean(cases[c]), _case_mean(reference[c])) for c in common]
    differences = np.asarray([a - b for a, b in pairs if a is not None and b is not None])
    if not len(differences):
        return None
    picks = np.random.default_rng(seed).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(differences[picks].mean(1), [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


Scores = dict[str, dict[str, Any]]  # domain → scores.json


def _scores(results: Iterable[Mapping[str, Any]]) -> Scores:
    return {domain: report for result in results for domain, report in result["scores"].items()}


def _case_mean(case: Mapping[str, Mapping[str, float | None]]) -> float | None:
    defined = [s["dice"] for s in case.values() if s["dice"] is not None]
    return float(np.mean(defined)) if defined else None


def _dice_table(scores: Mapping[str, Scores], domains: Sequence[str], setups: Sequence[str]) -> str:
    rows = []
    for domain in domains:
        first = next(by_domain[domain] for by_domain in scores.values() if domain in by_domain)
        names = [name for name in first["summary"] if name != "mean"]
        for name in (*names, "mean") if len(names) > 1 else names:
            cells = []
            for setup in setups:
                report = scores[setup].get(domain)
                cells.append(_interval(report["summary"][name]["dice"]) if report else "–")
            label = f"**{domain}, mean**" if name == "mean" else f"{domain}, {name}"
            rows.append([f"{label} ({len(first['cases'])})", *cells])
    means = []
    for setup in setups:
        values = [scores[setup][d]["summary"]["mean"]["dice"]["mean"] for d in domains if d in scores[setup]]
        whole = len(values) == len(domains) and all(v is not None for v in values)
        means.append(f"**{np.mean(values):.3f}**" if whole else "–")
    return _table(["domain, class (cases)", *setups], [*rows, ["**mean over domains**", *means]])


def _difference_table(scores: Mapping[str, Scores], domains: Sequence[str], setups: Sequence[str]) -> str:
    if "independent" not in scores:
        return "There are no independent networks yet."
    rows = []
    for setup in setups:
        if setup == "independent":
            continue
        cells, means = [], []
        for domain in domains:
            both = domain in scores[setup] and domain in scores["independent"]
            found = paired_difference(scores[setup][domain]["cases"], scores["independent"][domain]["cases"]) if both else None
            cells.append(f"{found[0]:+.3f} ({found[1]:+.3f} … {found[2]:+.3f})" if found else "–")
            means += [found[0]] if found else []
        rows.append([setup, *cells, f"{np.mean(means):+.3f}" if len(means) == len(domains) else "–"])
    text = "Difference of the mean Dice over classes to `independent`, case by case, with a 95 % bootstrap over cases."
    return f"{text}\n\n{_table(['set-up', *domains, 'mean'], rows)}"


def _said(scores: Mapping[str, Scores], domains: Sequence[str], setups: Sequence[str]) -> list[str]:
    """One line per set-up that was run for every domain: its mean difference, and where it loses or wins beyond chance."""
    lines = []
    for setup in setups:
        both = [d for d in domains if d in scores[setup] and d in scores.get("independent", {})]
        if setup == "independent" or len(both) < len(domains):
            continue
        found = {d: paired_difference(scores[setup][d]["cases"], scores["independent"][d]["cases"]) for d in domains}
        known = {d: triple for d, triple in found.items() if triple is not None}
        mean = np.mean([triple[0] for triple in known.values()])
        loses = [d for d, (_, _, high) in known.items() if high < 0]
        wins = [d for d, (_, low, _) in known.items() if low > 0]
        parts = [f"{what} {_listed(names)}" for what, names in (("loses in", loses), ("wins in", wins)) if names]
        verdict = "; ".join(parts) or "no domain's interval excludes zero"
        lines.append(f"- **{setup}** {mean:+.3f} on average over the {len(domains)} domains; {verdict}.")
    if not lines:
        return []
    return ["What the intervals exclude (each is of the cases alone, of one training with one seed):", "\n".join(lines)]


def _listed(names: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _size_table(results: Sequence[Mapping[str, Any]], setups: Sequence[str], budgets: Sequence[int]) -> str:
    rows = []
    for setup in setups:
        runs = [r for r in results if r["setup"] == setup]
        sizes = {r["run"]: r["parameters"] for r in runs}.values()  # equal for every budget
        own = [n for size in sizes for name, n in size.items() if name != "trunk"]
        # The adapters of `added` stand on a trunk that is there already.
        total = sum(own) + (0 if setup == "added" else sum(size["trunk"] for size in sizes))
        hours = [_hours([r for r in runs if r["steps_per_domain"] == steps]) for steps in budgets]
        threads = sorted({_made_of(r).get("threads") or 0 for r in runs})
        told = ", ".join(str(n or "?") for n in threads)
        rows.append([setup, str(len(sizes)), f"{total:,}", f"{min(own):,} … {max(own):,}", told, *hours])
    times = [f"training, hours, {steps} steps" for steps in budgets]
    columns = ["set-up", "networks", "parameters, all", "of them a domain's own", "threads", *times]
    note = (
        "`added` counts the adapters alone, and the time of their trainings without that of the trunks. Times are of a machine "
        "that did other things as well: compare them with care."
    )
    return f"{_table(columns, rows)}\n\n{note}"


def _hours(runs: Sequence[Mapping[str, Any]]) -> str:
    seconds: list[float] = [r["training_seconds"] for r in runs if r.get("training_seconds")]
    return f"{sum(seconds) / 3600:.1f}" if runs and len(seconds) == len(runs) else "–"


def _parameter_table(groups: Mapping[str, Sequence[str]], described: Mapping[str, Domain]) -> str:
    rows = []
    for title, names in groups.items():
        if missing := [name for name in names if name not in described]:
            raise InputError(f"no description of domain '{missing[0]}'; give the folder of its bundle")
        counts = count_parameters({name: described[name].network for name in names})
        own = counts.adapters.values()
        rows.append(
            [
                f"the {len(names)} {title}",
                f"{counts.independent:,}",
                *(f"{n:,} ({n / counts.independent:.2%})" for n in (counts.dense, counts.separable)),
                f"{min(own):,} … {max(own):,}",
            ]
        )
    columns = ["domains", "a dense network each", "universal, strided filters dense", "universal, separable", "a domain more"]
    note = (
        "Counted, not trained: a dense network of its own for each domain, as published; one universal network on the published "
        "trunk, whose strided filters are dense; and the one that this project ships, with strided filters of each domain. A "
        "domain more that is added to a frozen trunk has its terms of low rank besides."
    )
    return f"{note}\n\n{_table(columns, rows)}"


def _made_of(result: Mapping[str, Any]) -> Mapping[str, Any]:
    made: Mapping[str, Any] = next(iter(result["scores"].values()))["made"]
    return made


def _made(results: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for result in results:
        made = _made_of(result)
        rows.append(
            [
                result["run"],
                str(result["steps_per_domain"]),
                str(made["date"])[:10],
                str(made["commit"]),
                str(made["cpu"]),
                str(made["gpu"] or "none"),
            ]
        )
    return _table(["run", "steps", "date", "commit", "processor", "GPU"], rows)


def _interval(statistics: Mapping[str, Any]) -> str:
    if statistics["mean"] is None:
        return "–"
    return f"{statistics['mean']:.3f} ({statistics['ci95_low']:.3f} … {statistics['ci95_high']:.3f})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
