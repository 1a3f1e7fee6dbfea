"""The import command: weights and configuration on success; one line, exit code 1 and no file on bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from custom_components.networks import U2Net
from custom_components.weights import load_state

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/import_original.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_weights_and_configuration(tmp_path: Path) -> None:
    vectors = np.load(ROOT / "tests" / "vectors" / "net_independent_anisotropic.npz")
    state = {k.removeprefix("state/"): torch.from_numpy(vectors[k]) for k in vectors.files if k.startswith("state/")}
    torch.save({"model_state_dict": state, "epoch": 7}, tmp_path / "original.pth")
    pools = vectors["pools"].tolist()
    result = run(tmp_path / "original.pth", "--output-dir", tmp_path / "out", "--domain", "knee_mri", "--pools", *pools)
    assert result.returncode == 0, result.stderr

    config = json.loads(result.stdout[: result.stdout.rindex("}") + 1])
    assert config.pop("_target_") == "custom_components.networks.U2Net"
    network = load_state(U2Net(**config), tmp_path / "out" / "model.pt").eval()
    with torch.inference_mode():
        output = network(torch.from_numpy(vectors["input/0"]))
    np.testing.assert_allclose(output, vectors["output/0"], rtol=0, atol=1e-4 * np.abs(vectors["output/0"]).max())


def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    result = run(tmp_path / "none.pth", "--output-dir", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [f"error: {tmp_path}/none.pth: no such file; give a weights file"]
    assert not (tmp_path / "out").exists()


def test_help_shows_an_example() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "python scripts/import_original.py" in result.stdout
