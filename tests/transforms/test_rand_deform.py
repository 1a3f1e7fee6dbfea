"""`RandDeform` and its kin as members of a MONAI chain: seeds, metadata, caches, workers, inverse, batches."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.transforms import Compose, Flip

from custom_components.transforms import (
    Deformation,
    RandDeform,
    RandDeformBatchd,
    RandDeformd,
    RandElastic,
    RandFlip,
    RandRotate,
    RandScale,
    RandTranslate,
    deform,
)

SHAPE = (10, 12, 14)
ANGLES = [[-1.0, 1.0]] * 3


def everything(probability: float = 1.0) -> list[Any]:
    return [
        RandElastic(probability, [2.0, 4.0], [10.0, 40.0]),
        RandRotate(probability, ANGLES, [3.0, 1.0, 1.0]),
        RandScale(probability, [[0.8, 1.25]] * 3),
        RandTranslate(probability, [[-2, 2]] * 3),
        RandFlip(probability, [0, 2]),
    ]


def item(meta: bool = False) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(2, *SHAPE)).astype(np.float32))
    label = torch.from_numpy(rng.integers(0, 3, (1, *SHAPE), dtype=np.uint8))
    if not meta:
        return {"image": image, "label": label}
    affine = torch.tensor([[0, 0, 2.0, 5], [0, 1.5, 0, -4], [3.0, 0, 0, 1], [0, 0, 0, 1]], dtype=torch.float64)
    return {"image": MetaTensor(image, affine=affine), "label": MetaTensor(label, affine=affine)}


def test_the_same_seed_gives_the_same_result_and_the_next_call_another() -> None:
    transform = RandDeformd(["image", "label"], everything(), [1, 0])
    first = transform.set_random_state(seed=5)(item())
    second = transform(item())
    again = transform.set_random_state(seed=5)(item())
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])
    assert not torch.equal(first["image"], second["image"])


def test_array_and_dictionary_agree_and_replay() -> None:
    array, dictionary = RandDeform(everything(), order=3, mode="reflect"), RandDeformd("image", everything(), 3, "reflect")
    image = item()["image"]
    result = array.set_random_state(seed=2)(image)
    assert torch.equal(result, dictionary.set_random_state(seed=2)({"image": image})["image"])
    assert torch.equal(result, array(image, randomize=False))
    stored = Deformation.from_json(array.deformation.to_json())
    assert torch.equal(result, deform([image], stored, [3], "reflect")[0])


def test_each_operation_comes_about_as_often_as_its_probability_says() -> None:
    transform = RandDeform(everything(0.3)).set_random_state(seed=0)
    found = []
    for _ in range(2000):
        transform.randomize()
        found.append([o.kind for o in transform.deformation.operations])
    for kind, expected in (("elastic", 0.3), ("rotate", 0.3), ("scale", 0.3), ("translate", 0.3), ("flip", 1 - 0.7**2)):
        share = np.mean([kind in kinds for kinds in found])
        assert abs(share - expected) < 3 * np.sqrt(expected * (1 - expected) / 2000)
    assert all(kinds == [k for k in ("elastic", "rotate", "scale", "translate", "flip") if k in kinds] for kinds in found)


def test_drawn_values_are_uniform_in_their_ranges() -> None:
    random = np.random.RandomState(0)
    elastic = [RandElastic(1.0, [2.0, 4.0], [10.0, 40.0]).draw(random) for _ in range(500)]
    for values, low, high in (([e.sigma[0] for e in elastic], 2, 4), ([e.alpha for e in elastic], 10, 40)):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
        assert abs(np.mean(values) - (low + high) / 2) < 3 * (high - low) / np.sqrt(12 * 500)
    assert len({e.seed for e in elastic}) == 500
    assert RandScale(1.0, 2.0).draw(random).factors == (2.0,)
    assert len(set(RandScale(1.0, [[0.5, 2]] * 3).draw(random).factors)) == 3


def test_nothing_drawn_gives_an_own_copy_of_the_same_type() -> None:
    data = item()
    data["image"] = data["image"].double()
    result = RandDeformd(["image", "label"], everything(0.0), [1, 0])(data)
    assert result["image"].dtype == torch.float32
    assert torch.equal(result["image"], data["image"].float())
    result["label"][:] = 9
    assert data["label"].max() < 9


def test_the_affine_moves_along() -> None:
    """World coordinates of what a voxel shows stay: checked on an image whose values are its world coordinates."""
    data = item(meta=True)
    index = np.indices(SHAPE).reshape(3, -1)
    world = (data["image"].affine.numpy() @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    image = MetaTensor(torch.from_numpy(world.reshape(3, *SHAPE).astype(np.float32)), affine=data["image"].affine)
    operations = [RandRotate(1.0, ANGLES), RandScale(1.0, [0.7, 0.9]), RandTranslate(1.0, [[-1, 1]] * 3), RandFlip(1.0, [1])]
    moved = RandDeformd("image", operations, 1, values=np.nan).set_random_state(seed=1)({"image": image})
    result = moved["image"]
    seen = (result.affine.numpy() @ np.vstack([index, np.ones(index.shape[1])]))[:3].reshape(3, *SHAPE)
    inside = torch.isfinite(result).all(dim=0).numpy()
    assert inside.mean() > 0.5
    np.testing.assert_allclose(result.numpy()[:, inside], seen[:, inside], atol=1e-3)


def test_flips_move_image_and_affine_as_monai_does() -> None:
    data = item(meta=True)
    ours = RandDeformd(["image", "label"], [RandFlip(1.0, [0, 2])], [1, 0])(data)
    theirs = Flip([0, 2])(data["image"])
    assert torch.equal(ours["image"].as_tensor(), theirs.as_tensor())
    torch.testing.assert_close(ours["image"].affine, theirs.affine)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_and_right_angles_invert(axis: int) -> None:
    angles = [[0.0, 0.0]] * 3
    angles[axis] = [np.pi / 2, np.pi / 2]
    size = (9, 9, 9)
    image = MetaTensor(torch.rand(1, *size) + 1, affine=torch.diag(torch.tensor([2.0, 1, 3, 1], dtype=torch.float64)))
    label = MetaTensor((torch.rand(1, *size) * 4).to(torch.uint8), affine=image.affine)
    for operations, lost in (([RandFlip(1.0, [0, 1, 2])], 0), ([RandRotate(1.0, angles)], 1)):
        transform = RandDeformd(["image", "label"], operations, [1, 0])
        there = transform({"image": image, "label": label})
        back = transform.inverse(there)
        kept = back["image"].as_tensor()[0] != 0
        # The mesh is centred at n / 2: index 0 of one axis goes to n, and that plane is lost.
        assert int((~kept).sum()) == lost * 9 * 9
        assert torch.equal(back["image"].as_tensor()[0][kept], image.as_tensor()[0][kept])
        assert torch.equal(back["label"].as_tensor()[0][kept], label.as_tensor()[0][kept])
        torch.testing.assert_close(back["image"].affine, image.affine)
        assert back["image"].applied_operations == []


def test_an_elastic_deformation_is_recorded_and_not_inverted() -> None:
    transform = RandDeformd(["image", "label"], everything(), [1, 0])
    data = item(meta=True)
    result = transform(data)
    recorded = result["image"].applied_operations[-1]["extra_info"]
    replayed = deform([data["image"]], Deformation.from_dict(recorded["deformation"]), [recorded["order"]])[0]
    assert torch.equal(result["image"].as_tensor(), replayed)
    with pytest.raises(ValueError, match="elastic deformation cannot be inverted"):
        transform.inverse(result)


def test_missing_keys() -> None:
    with pytest.raises(KeyError):
        RandDeformd(["image", "other"], everything(), 1)(item())
    result = RandDeformd(["other", "label"], everything(), [1, 0], allow_missing_keys=True)(item())
    assert set(result) == {"image", "label"}


@pytest.mark.parametrize("workers", [0, 2])
def test_cache_workers_and_pickle(workers: int) -> None:
    transform = Compose([RandDeformd(["image", "label"], everything(), [1, 0])])
    transform = pickle.loads(pickle.dumps(transform)).set_random_state(seed=0)
    data = CacheDataset([item() for _ in range(4)], transform, progress=False)
    batches = list(DataLoader(data, batch_size=2, num_workers=workers))
    assert [b["image"].shape for b in batches] == [(2, 2, *SHAPE)] * 2
    assert len({float(b["image"][i].sum()) for b in batches for i in range(2)}) == 4
    assert torch.equal(data.data[0]["image"], item()["image"])


def test_a_batch_has_a_deformation_for_each_sample() -> None:
    batch = {"image": torch.stack([item()["image"]] * 3), "label": torch.stack([item()["label"]] * 3)}
    transform = RandDeformBatchd(["image", "label"], everything(), [1, 0]).set_random_state(seed=0)
    result = transform(batch)
    assert len({d.to_json() for d in transform.deformations}) == 3
    for b, deformation in enumerate(transform.deformations):
        alone = deform([batch["image"][b], batch["label"][b]], deformation, [1, 0])
        torch.testing.assert_close(result["image"][b], alone[0], atol=1e-5, rtol=0)
        assert (result["label"][b] != alone[1]).sum() <= 2


def test_from_a_configuration() -> None:
    """As it stands in a bundle's JSON."""
    name = "custom_components.transforms."
    config = {
        "_target_": name + "RandDeformd",
        "keys": ["image", "label"],
        "operations": [
            {"_target_": name + "RandElastic", "probability": 0.3, "sigma": [10, 13], "alpha": [0, 750]},
            {"_target_": name + "RandRotate", "probability": 0.3, "angles": [[0, 6.28], [0, 0], [0, 0]]},
            {"_target_": name + "RandFlip", "_disabled_": True, "probability": 0.3, "axes": [2]},
        ],
        "orders": [1, 0],
    }
    transform = ConfigParser({"transform": config}).get_parsed_content("transform")
    assert isinstance(transform, RandDeformd)
    assert [type(o).__name__ for o in transform.operations] == ["RandElastic", "RandRotate"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandElastic(1.5, 3, 1), "probability"),
        (lambda: RandElastic(float("nan"), 3, 1), "probability"),
        (lambda: RandElastic(1, [-1, 2], 1), "sigma"),
        (lambda: RandElastic(1, 3, [2, 1]), "alpha"),
        (lambda: RandElastic(1, 3, 1, law="exact"), "law"),
        (lambda: RandScale(1, [0, 1]), "positive"),
        (lambda: RandRotate(1, [[0, 1]] * 2), "one range in 2-D or three"),
        (lambda: RandRotate(1, [[0, 1]] * 3, [1, 0, 1]), "spacing"),
        (lambda: RandFlip(1, [0, 0]), "axes"),
        (lambda: RandTranslate(1, [[0, float("inf")]] * 3), "offset"),
        (lambda: RandDeformd(["a", "b"], [], [1]), "orders"),
        (lambda: RandDeformd(["a"], [], 2), "orders"),
        (lambda: RandDeformd(["a"], [], 1, values=[0, 1]), "values"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_given(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
