"""The whole plan: always a valid domain whose network can be built, and contradictions named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from custom_components.domain import Domain, DomainError
from custom_components.errors import InputError
from custom_components.networks import U2Net
from custom_components.planning import DatasetFacts, LabelFacts, Plan, parse_merges, parse_overrides, plan_domain, plan_markdown
from custom_components.planning.geometry import halvings, resampled_shape, target_spacing
from tests.planning.made import HOUNSFIELD, case, channel, dataset


def _median_image(data: DatasetFacts) -> tuple[int, int, int]:
    shapes, spacings = [c.shape for c in data.cases], [c.spacing for c in data.cases]
    return resampled_shape(shapes, spacings, target_spacing(spacings, shapes)[0])


def why(plan: Plan, field: str) -> str:
    (found,) = [reason.why for reason in plan.reasons if reason.field == field]
    return found


@st.composite
def facts(draw: st.DrawFn) -> Any:
    classes = draw(st.integers(1, 5))
    channels = draw(st.integers(1, 3))
    cases = []
    for index in range(draw(st.integers(1, 6))):
        values = sorted(draw(st.lists(st.floats(-2000, 4000), min_size=5, max_size=5)))
        voxels = {value: draw(st.integers(0, 10**6)) for value in range(1, classes + 1)}
        pieces = draw(st.integers(1, 4))
        labels = {value: LabelFacts(n, min(n, pieces), n) for value, n in voxels.items()}
        cases.append(
            case(
                draw(st.tuples(*[st.integers(8, 600)] * 3)),
                draw(st.tuples(*[st.floats(0.3, 8)] * 3)),
                {value: LabelFacts(5, 1, 5) if index == 0 else label for value, label in labels.items()},
                [channel(values, draw(st.floats(0, 1)))] * channels,
                f"case_{index}",
            )
        )
    return dataset(cases, {0: "background", **{v: f"part {v}" for v in range(1, classes + 1)}}, ["T1", "T2", "ADC"][:channels])


@given(data=facts(), bound=st.integers(16**3, 128**3), steps=st.integers(1, 5))
def test_any_data_gives_a_domain_whose_network_can_be_built(data: Any, bound: int, steps: int) -> None:
    if max(_median_image(data)) < 8:  # resampling shrinks cases of mixed spacings
        with pytest.raises(InputError, match="too few for a network"):
            plan_domain(data, "any_mri", patch_voxels=bound, max_steps=steps)
        return
    plan = plan_domain(data, "any_mri", patch_voxels=bound, max_steps=steps)
    domain = plan.domain
    assert Domain.from_dict(domain.model_dump(mode="json")) == domain
    assert math.prod(domain.patch_size) <= bound
    assert domain.sampling.batch_size >= 2
    assert {reason.field.split(".")[0] for reason in plan.reasons} == set(Domain.model_fields)
    assert all(reason.why for reason in plan.reasons)
    with torch.device("meta"):
        network = U2Net({"any_mri": domain.network}, channels=[4] * (len(domain.strides) + 1), deep_supervision="heads")
        out = network(torch.empty(1, domain.in_channels, *domain.patch_size))
    assert out[0].shape == (1, domain.out_channels, *domain.patch_size)
    assert all(p % t == 0 for p, t in zip(domain.patch_size, halvings(domain.strides), strict=True))


@pytest.mark.parametrize(("voxels", "told"), [(1000, "organ 100 %, rare 0.12 %"), (10, "organ 94 %, rare 11 %")])
def test_shares_are_told_as_a_person_writes_them(voxels: int, told: str) -> None:
    cases = [case((40, 60, 50), labels={1: voxels, 2: 0}), case((40, 60, 50), labels={1: 8 * voxels // 10, 2: 1})]
    assert told in why(plan_domain(dataset(cases, labels={0: "background", 1: "Organ", 2: "rare"}), "organ_mri"), "labels")


def test_reasons_hold_the_values_of_the_domain() -> None:
    plan = plan_domain(dataset([case((40, 60, 50), (3.0, 1.0, 1.0))] * 3), "organ_mri")
    values = plan.domain.model_dump(mode="json")
    for reason in plan.reasons:
        value: Any = values
        for key in reason.field.split("."):
            value = value[key]
        planned = reason.value
        if reason.field == "postprocessing":
            planned = {name: {**rule, "second_over": 10.0} for name, rule in planned.items()}
        assert value == planned, reason.field


def test_hounsfield_units_have_a_floor_and_offset_ones_none() -> None:
    plain = plan_domain(dataset([case((64, 64, 64), channels=[channel(HOUNSFIELD)])] * 3, channels=["CT"]), "a_ct").domain
    assert (plain.modality, plain.intensity.floor, plain.intensity.statistics) == ("CT", -1024, "positive")
    offset = channel([v + 1024 for v in HOUNSFIELD], zeros=0.5, low=0.0)
    shifted = plan_domain(dataset([case((64, 64, 64), channels=[offset])] * 3, channels=["CT"]), "a_ct").domain
    assert (shifted.intensity.floor, shifted.intensity.statistics) == (None, "positive")


@pytest.mark.parametrize(
    ("images", "statistics"),
    [
        (channel(zeros=0.4, low=0.0), "positive"),
        (channel((-3.0, -2.0, 0.0, 2.0, 3.0), zeros=0.4), "nonzero"),
        (channel((-3.0, -2.0, 0.1, 2.0, 3.0)), "all"),
        (channel(zeros=0.01, low=0.0), "all"),
    ],
)
def test_the_background_decides_which_voxels_count(images: Any, statistics: str) -> None:
    plan = plan_domain(dataset([case((64, 64, 64), channels=[images])] * 3), "a_mri")
    assert plan.domain.intensity.statistics == statistics


def test_a_clip_keeps_the_labels_and_leaves_something_to_see() -> None:
    bright = channel(foreground={0.5: 300.0, 2.0: 400.0, 50.0: 700.0, 98.0: 950.0, 99.5: 1000.0})
    plan = plan_domain(dataset([case((64, 64, 64), channels=[bright])] * 3), "a_mri")
    assert plan.domain.intensity.percentiles == (0.5, 99.5)
    assert "brightest" in why(plan, "intensity.percentiles")
    empty = channel((0.0, 0.0, 0.0, 0.0, 0.0), zeros=0.999)
    plan = plan_domain(dataset([case((64, 64, 64), channels=[empty])] * 3), "a_mri")
    assert plan.domain.intensity.percentiles is None
    assert any("equal values" in warning for warning in plan.warnings)


def test_a_rare_label_is_named_and_drawn_more_often() -> None:
    labels = {0: "background", 1: "Liver", 2: "Tumour"}

    def planned(tumour: int) -> Plan:
        return plan_domain(dataset([case((64, 64, 64), labels={1: 10000, 2: tumour})] * 3, labels), "liver_ct", modality="CT")

    usual, rare, very_rare = planned(5000), planned(300), planned(20)
    assert [p.domain.sampling.smallest_class for p in (usual, rare, very_rare)] == [0.3, 0.4, 0.5]
    assert "Tumour (2) has 0.2 %" in why(very_rare, "sampling.smallest_class")
    assert "rarest: tumour" in why(usual, "labels")


def test_thick_slices_turn_and_bend_less_out_of_their_plane() -> None:
    flat = plan_domain(dataset([case((9, 216, 256), (10.0, 1.5, 1.5))] * 3), "a_mri").domain
    cube = plan_domain(dataset([case((128, 128, 128))] * 3), "a_mri").domain
    assert cube.augmentation.rotation.angles == ((-0.35, 0.35),) * 3
    # Half of 256 voxels of 1.5 mm is 192 mm, and 10 mm in 192 mm are 0.052 radians.
    assert flat.augmentation.rotation.angles == ((-0.35, 0.35), (-0.052, 0.052), (-0.052, 0.052))
    assert flat.augmentation.elastic.alpha[1] < cube.augmentation.elastic.alpha[1]


@pytest.mark.parametrize("name", ["Left kidney", "kidney-R", "RV", "Right"])
def test_mirroring_is_off_where_a_label_tells_its_side(name: str) -> None:
    plan = plan_domain(dataset([case((64, 64, 64))] * 3, {0: "background", 1: name}), "a_mri")
    assert plan.domain.augmentation.mirror.axes == ()
    assert "wrong side" in why(plan, "augmentation.mirror")


def test_mirroring_is_on_where_no_label_does() -> None:
    plan = plan_domain(dataset([case((64, 64, 64))] * 3, {0: "background", 1: "Clavicle upright"}), "a_mri")
    assert plan.domain.augmentation.mirror.axes == (2,)


def test_the_largest_component_stays_where_labels_are_one_piece() -> None:
    cases = [case((64, 64, 64), labels={1: 100, 2: LabelFacts(100, 1 + (i < 2), 60)}) for i in range(20)]
    plan = plan_domain(dataset(cases, {0: "background", 1: "One", 2: "Two"}), "a_mri")
    assert {name: rule.keep for name, rule in plan.domain.postprocessing.items()} == {"one": 1}
    assert "two 18 of 20" in why(plan, "postprocessing")


def test_labels_with_gaps_get_indices_without() -> None:
    facts = dataset([case((64, 64, 64), labels={2: 50, 4: 50})] * 3, {0: "background", 2: "B", 4: "D"})
    domain = plan_domain(facts, "a_mri").domain
    assert domain.labels == {"background": 0, "d": 1, "b": 2}
    assert domain.label_merges == {4: 1}


def test_merged_labels_are_one_class() -> None:
    facts = dataset([case((64, 64, 64), labels={1: 50})] * 3, {0: "background", 1: "Liver"}, merges={2: 1})
    domain = plan_domain(facts, "a_mri").domain
    assert (domain.labels, domain.label_merges) == ({"background": 0, "liver": 1}, {2: 1})


def test_overrides_are_followed_by_what_depends_on_them() -> None:
    facts = dataset([case((128, 128, 128))] * 3)
    plan = plan_domain(facts, "a_mri", overrides=parse_overrides(["spacing=[4,2,2]", "sampling.batch_size=7", "organ=heart"]))
    assert plan.domain.spacing == (4, 2, 2)
    assert plan.domain.patch_size == (32, 64, 64)
    assert plan.domain.strides[0] == (1, 2, 2)
    assert (plan.domain.sampling.batch_size, plan.domain.organ) == (7, "heart")
    plan = plan_domain(facts, "a_mri", overrides=parse_overrides(["patch_size=[16,32,32]", "augmentation.mirror.probability=0"]))
    assert plan.domain.strides == ((2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert plan.domain.augmentation.mirror.probability == 0
    assert "set by --set" in why(plan, "augmentation.mirror")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("spacing=[1,1]", "spacing"),
        ("spacing=abc", "spacing"),
        ("patch_size=[50,64,64]", "not divisible"),
        ("strides=[[2,2,2]]", "kernel_sizes"),
        ("modality=PET", "modality"),
        ("sampling.batch=3", "not a known field"),
        ("organ.left=3", "no fields below it"),
        ("sampling.foreground=0.9", "exceeds 1"),
    ],
)
def test_a_wrong_override_is_named(override: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        plan_domain(dataset([case((128, 128, 128))] * 3), "a_mri", overrides=parse_overrides([override]))


@pytest.mark.parametrize("text", ["spacing", "patchsize=[1,1,1]", "name=other", "=3"])
def test_an_override_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--set"):
        parse_overrides([text])


@pytest.mark.parametrize("given_", [["2"], ["a:b"], ["2:2"], ["0:1"], ["2:1", "2:3"], ["3:2", "2:1"]])
def test_a_wrong_merge_is_refused(given_: list[str]) -> None:
    with pytest.raises(InputError, match="--merge"):
        parse_merges(given_)


BOTH = {0: "background", 1: "One", 2: "Two"}


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (dataset([case((64, 64, 64), labels={1: 0})] * 3), "nothing to learn"),
        (dataset([case((64, 64, 64), labels={1: 9, 2: 0})] * 3, BOTH), r"2 \(two\); take it off"),
        (dataset([case((64, 64, 64), labels={1: 9, 7: 1})] * 3), r"does not name label value 7 \(in 3 of 3"),
        (dataset([case((64, 64, 64))] * 3, {0: "background"}), "names no label"),
        (dataset([case((64, 64, 64))] * 3, {}), "names no label"),
        (dataset([case((64, 64, 64), labels={1: 9, 2: 9})] * 3, {1: "a b", 2: "A-B"}), "a name of its own"),
        (dataset([case((64, 64, 64))] * 3, {1: "Background"}), "a name of its own"),
        (dataset([case((64, 64, 64), labels={999: 9})] * 3, {999: "x"}), "between 1 and 255"),
        (dataset([case((64, 64, 64))] * 3, channels=["MRI", "MRI"]), "names 2 channels"),
        (dataset([case((64, 64, 64)), case((64, 64, 64), channels=[channel()] * 2, name="b")], channels=[]), "b has 2"),
        (dataset([case((64, 64, 64))] * 3, channels=["PET"]), "--modality"),
        (dataset([case((64, 64, 64), channels=[channel()] * 2)] * 3, channels=["CT", "T2"]), "both MR and CT"),
        (dataset([case((64, 64, 64))] * 3, channels=[]), "--modality"),
        (dataset([case((64, 64, 64))] * 3, merges={2: 5}), "names no label 5"),
        (dataset([case((64, 64, 64), labels={1: 9, 3: 9})] * 3, {1: "a", 3: "c"}, merges={2: 1}), "merged away"),
        (dataset([case((6, 6, 6))] * 3), "too few"),
    ],
)
def test_contradictions_are_named(facts: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        plan_domain(facts, "a_mri")


def test_stray_values_may_count_as_background() -> None:
    plan = plan_domain(dataset([case((64, 64, 64), labels={1: 9, 7: 4})] * 3), "a_mri", stray="background")
    assert plan.domain.stray_labels == "background"
    assert "7 (12 voxels in 3 cases)" in why(plan, "stray_labels")


def test_bounds_are_checked() -> None:
    facts = dataset([case((64, 64, 64))] * 3)
    with pytest.raises(InputError, match="patch-voxels"):
        plan_domain(facts, "a_mri", patch_voxels=100)
    with pytest.raises(InputError, match="max-steps"):
        plan_domain(facts, "a_mri", max_steps=0)
    with pytest.raises(DomainError, match="name"):
        plan_domain(facts, "A MRI")


def test_what_is_odd_is_warned_of() -> None:
    cases = [
        case((64, 64, 64), (1.0, 1.0, 1.0), {1: 100, 2: 0}, name="a"),
        case((64, 64, 3), (1.0, 1.0, 5.0), {1: 100, 2: 0}, name="b", orientation="LPS"),
        case((64, 64, 64), (1.0, 1.0, 1.0), {1: 0, 2: 4}, name="c"),
    ]
    warnings = "\n".join(plan_domain(dataset(cases, BOTH), "a_mri").warnings)
    for words in (
        "3 cases: five folds need 5",
        "along x differs from 1 to 5 mm (b)",
        "LPS in 1",
        "under 4 slices",
        "Two (2) is absent in 2",
    ):
        assert words in warnings
    assert "cases have no label" not in warnings
    good = [case((64, 64, 64), labels={1: 1000}, name=f"c{i}") for i in range(30)]
    assert plan_domain(dataset(good), "a_mri").warnings == []


def test_the_document_has_every_field_and_no_broken_row() -> None:
    plan = plan_domain(dataset([case((64, 64, 64))] * 3), "a_mri", overrides={"organ": "a|b`c"})
    text = plan_markdown(plan, dataset([case((64, 64, 64))] * 3), "dataset.png")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == len(plan.reasons) + 1
    assert all(line.replace("\\|", "").count("|") == 4 for line in rows)
    assert plan.warnings[0] in text
