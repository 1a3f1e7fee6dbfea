"""What MONAI's own commands export of a bundle gives the network's numbers."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, onnx_export

from custom_components.domain import Domain
from custom_components.networks import U2Net
from custom_components.weights import save_state

ROOT = Path(__file__).parents[2]
# Four isotropic levels and six anisotropic ones: the others differ from these in numbers only.
EXPORTED = ("hippocampus_mri_segmentation", "cardiac_mri_segmentation")
BUNDLES = [p for p in sorted(ROOT.glob("bundles/*")) if p.name in EXPORTED]
# Every instance norm amplifies float32's rounding, the more so the deeper the network: the exported one may be off by some
# times what the network itself is off from its own float64. TorchScript is compared in float64 as well, where only a wrong
# graph could differ.
ROUNDINGS = 10


@pytest.fixture(params=BUNDLES, ids=lambda p: p.name, scope="module")
def bundle(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def network(bundle: Path) -> U2Net:
    """The configuration's network, with norms that are not the identity, as after training."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    torch.manual_seed(0)
    network: U2Net = parser.get_parsed_content("network_def")
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network.eval()


@pytest.fixture(scope="module")
def image(bundle: Path) -> torch.Tensor:
    domain = Domain.from_file(bundle / "configs" / "domain.json")
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, domain.in_channels, *domain.patch_size, generator=generator)


@pytest.fixture(scope="module")
def expected(network: U2Net, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits = network(image)
    assert isinstance(logits, torch.Tensor) and logits.std() > 0.1
    return logits


@pytest.fixture(scope="module")
def exact(network: U2Net, image: torch.Tensor) -> torch.Tensor:
    """The network's logits in float64."""
    with torch.inference_mode():
        return copy.deepcopy(network).double()(image.double())


@pytest.fixture(scope="module")
def tolerance(expected: torch.Tensor, exact: torch.Tensor) -> float:
    """Absolute, of a logit."""
    rounding = float((expected - exact).abs().max())
    assert rounding < 0.01 * float(exact.abs().max())
    return ROUNDINGS * rounding


def arguments(bundle: Path) -> dict[str, Any]:
    return {
        "net_id": "network_def",
        "config_file": str(bundle / "configs" / "inference.json"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "bundle_root": str(bundle),
    }


def test_torchscript(
    bundle: Path, network: U2Net, image: torch.Tensor, exact: torch.Tensor, tolerance: float, tmp_path: Path
) -> None:
    save_state(network, tmp_path / "model.pt")
    files = {"ckpt_file": str(tmp_path / "model.pt"), "filepath": str(tmp_path / "model.ts")}
    ckpt_export(**arguments(bundle), **files)
    exported = torch.jit.load(tmp_path / "model.ts")
    with torch.inference_mode():
        assert (exported(image) - exact).abs().max() <= tolerance
        assert (exported.double()(image.double()) - exact).abs().max() <= 1e-9


def test_onnx(bundle: Path, network: U2Net, image: torch.Tensor, exact: torch.Tensor, tolerance: float, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    save_state(network, tmp_path / "model.pt")
    files = {"ckpt_file": str(tmp_path / "model.pt"), "filepath": str(tmp_path / "model.onnx")}
    onnx_export(**arguments(bundle), **files)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert np.abs(output - exact.numpy()).max() <= tolerance
