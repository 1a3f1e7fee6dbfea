"""The import command: weights and configuration on success; one line, exit code 1 and no file on bad input."""

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from custom_components.networks import U2Net
from custom_components.weights import load_state

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "import_original.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("import_original", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_weights_and_configuration(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = np.load(ROOT / "tests" / "vectors" / "net_independent_anisotropic.npz")
    state = {k.removeprefix("state/"): torch.from_numpy(vectors[k]) for k in vectors.files if k.startswith("state/")}
    torch.save({"model_state_dict": state, "epoch": 7}, tmp_path / "original.pth")
    script.main(tmp_path / "original.pth", tmp_path / "out", ["knee_mri"], tuple(vectors["pools"].tolist()))

    printed = capsys.readouterr().out
    config = json.loads(printed[: printed.rindex("}") + 1])
    assert config.pop("_target_") == "custom_components.networks.U2Net"
    network = load_state(U2Net(**config), tmp_path / "out" / "model.pt").eval()
    with torch.inference_mode():
        output = network(torch.from_numpy(vectors["input/0"]))
    np.testing.assert_allclose(output, vectors["output/0"], rtol=0, atol=1e-4 * np.abs(vectors["output/0"]).max())


def test_bad_input_is_one_line_and_writes_nothing(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        script.main(tmp_path / "none.pth", tmp_path / "out")
    assert capsys.readouterr().err.splitlines() == [f"error: {tmp_path}/none.pth: no such file; give a weights file"]
    assert not (tmp_path / "out").exists()


def test_help_shows_an_example() -> None:
    result = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "python scripts/import_original.py" in result.stdout
