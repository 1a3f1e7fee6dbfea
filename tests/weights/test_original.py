"""Original checkpoints give the original's numbers: frozen weights, inputs and outputs of every set-up."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from custom_components.weights import WeightsError, convert_original, import_original, load_network, save_bundle_weights

VECTORS = Path(__file__).parents[1] / "vectors"
FILES = sorted(VECTORS.glob("net_*.npz"))
ADAPTERS = {"separable_adapter": "separable", "series_adapter": "series", "parallel_adapter": "parallel"}


def checkpoint(vectors: np.lib.npyio.NpzFile) -> dict[str, torch.Tensor]:
    return {k.removeprefix("state/"): torch.from_numpy(vectors[k]) for k in vectors.files if k.startswith("state/")}


def test_all_set_ups_are_covered() -> None:
    assert len(FILES) == 5


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_outputs_equal_the_frozen_ones(path: Path, tmp_path: Path) -> None:
    """Through a file as the original saves it, the importer, and our own files."""
    vectors = np.load(path)
    torch.save({"model_state_dict": checkpoint(vectors)}, tmp_path / "original.pt")
    names = [f"organ_{t}" for t in range(len(vectors["in_channels"]))]
    imported = import_original(tmp_path / "original.pt", names, vectors["pools"].tolist())

    expected_adapter = ADAPTERS[str(vectors["adapter"])] if vectors["mode"] == "universal" else "none"
    assert imported.config["adapter"] == expected_adapter
    assert imported.config["channels"][0] == vectors["base_channels"]
    assert json.loads(json.dumps(imported.config)) == imported.config

    save_bundle_weights(imported.build(), tmp_path / "models")
    network = load_network(tmp_path / "models")
    for t, name in enumerate(names):
        expected = torch.from_numpy(vectors[f"output/{t}"])
        with torch.inference_mode():
            output = network(torch.from_numpy(vectors[f"input/{t}"]), name)
        assert output.shape == expected.shape
        assert (output - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_tensor_arrives_once(path: Path) -> None:
    state = checkpoint(np.load(path))
    imported = convert_original(state, pools=np.load(path)["pools"].tolist())
    assert sorted(v.data_ptr() for v in state.values()) == sorted(v.data_ptr() for v in imported.state_dict.values())


def test_prefix_of_a_parallel_wrapper_is_taken_off() -> None:
    vectors = np.load(FILES[1])
    state = checkpoint(vectors)
    assert (
        convert_original({f"module.{k}": v for k, v in state.items()}).state_dict.keys()
        == convert_original(state).state_dict.keys()
    )


def independent() -> dict[str, torch.Tensor]:
    return checkpoint(np.load(VECTORS / "net_independent_anisotropic.npz"))


def without(key: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in independent().items() if k != key}


@pytest.mark.parametrize(
    ("state", "arguments", "message"),
    [
        ({"fc.weight": torch.ones(1)}, {}, "fc.weight is unknown"),
        ({}, {}, "no original 3D U²-Net checkpoint"),
        (without("in_tr_list.0.op1.0.weight"), {}, "input layers"),
        (without("up_blocks.1.op2.conv.bias"), {}, "missing (1): trunk.decoder.1.second.bias"),
        (without("down_blocks.2.op1.conv.weight"), {}, "positive width"),
        (independent() | {"up_samps.0.op.op.1.weight": torch.ones(2)}, {}, "unexpected (1): up_samps.0.op.op.1.weight"),
        (independent() | {"up_samps.0.op.adapOps.0.op1.weight": torch.ones(2)}, {}, "unexpected (1)"),
        (independent() | {"out_tr_list.0.conv1.bias": torch.full((3,), torch.nan)}, {}, "NaN or infinite"),
        (independent() | {"module.out_tr_list.0.conv1.bias": torch.ones(3)}, {}, "two of its keys"),
        (independent(), {"domains": ["a", "b"]}, "has 1 tasks"),
        (independent(), {"domains": ["No Name"]}, "No Name"),
        (independent(), {"pools": [1, 1, 1]}, "the largest 3"),
    ],
)
def test_what_does_not_fit_is_refused(state: dict[str, torch.Tensor], arguments: dict[str, list[str]], message: str) -> None:
    with pytest.raises(WeightsError, match=re.escape(message)):
        convert_original(state, **arguments)
