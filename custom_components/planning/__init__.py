"""From a data set's measured numbers to a domain that says why it is as it is."""

from custom_components.planning.decisions import parse_merges, parse_overrides
from custom_components.planning.facts import CaseFacts, ChannelFacts, DatasetFacts, LabelFacts, facts_of
from custom_components.planning.plan import MAX_STEPS, PATCH_VOXELS, Plan, Reason, plan_domain
from custom_components.planning.report import plan_markdown, value_text

__all__ = [
    "MAX_STEPS",
    "PATCH_VOXELS",
    "CaseFacts",
    "ChannelFacts",
    "DatasetFacts",
    "LabelFacts",
    "Plan",
    "Reason",
    "facts_of",
    "parse_merges",
    "parse_overrides",
    "plan_domain",
    "plan_markdown",
    "value_text",
]
