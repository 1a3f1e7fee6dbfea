"""The whole network on the CPU kernels: gradients, training, processes, threads, `torch.compile`, and what an import costs."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from custom_components.kernels import Norm, filter_norm_act, pointwise_conv3d
from custom_components.networks import U2Net
from custom_components.networks.layers import InstanceNormAct

STRIDES = {
    "halved": [[2, 2, 2], [2, 2, 2]],
    "flat first": [[1, 2, 2], [2, 2, 2]],
    "one axis": [[2, 1, 1], [1, 1, 2]],
}


def network(strides: list[list[int]], inputs: int = 1, **changes) -> U2Net:
    torch.manual_seed(0)
    kernels = [[1, 3, 3] if strides[0][0] == 1 else [3, 3, 3], [3, 3, 3], [3, 3, 3]]
    domain = {"in_channels": inputs, "out_channels": 3, "strides": strides, "kernel_sizes": kernels}
    return U2Net({"a": domain}, (4, 6, 9), **changes)


def without_kinks(path: torch.nn.Module) -> torch.nn.Module:
    """Activations as straight lines: at a kink rounding decides between two slopes, in any arithmetic."""
    for layer in path.modules():
        if isinstance(layer, InstanceNormAct):
            layer.slope = 1.0
        elif isinstance(layer, torch.nn.LeakyReLU):
            layer.negative_slope = 1.0
    return path


def gradients(net: U2Net, x: torch.Tensor) -> dict[str, torch.Tensor]:
    path = net.select("a")
    x = x.detach().requires_grad_()
    without_kinks(path)(x).square().sum().backward()
    return {"input": x.grad, **{name: p.grad for name, p in net.named_parameters()}}


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("strides", STRIDES.values(), ids=STRIDES)
@pytest.mark.parametrize("contiguous", [True, False])
def test_gradients_equal_those_in_float64_per_tensor(strides, inputs, contiguous):
    net = network(strides, inputs, deep_supervision="sum")
    x = torch.randn(2, inputs, 12, 8, 16)
    if not contiguous:
        x = torch.randn(16, 8, 12, inputs, 2).permute(4, 3, 2, 1, 0)
    # In double precision plain torch runs, so this does not lean on the kernels.
    doubled = network(strides, inputs, deep_supervision="sum").double()
    doubled.load_state_dict(net.state_dict())
    expected = gradients(doubled, x.double())
    largest = float(max(g.abs().max() for g in expected.values()))
    for name, actual in gradients(net, x).items():
        assert actual.shape == expected[name].shape
        error = (actual - expected[name]).abs().max()
        assert error <= 1e-4 * expected[name].abs().max() + 2e-6 * largest, name


def losses(steps: int, kinks: bool) -> list[float]:
    """Curve of a training; without kinks, activations are straight lines and the norms alone are left of them."""
    path = network(STRIDES["halved"]).train().select("a")
    if not kinks:
        without_kinks(path)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 1, 8, 8, 8, generator=generator)
    labels = (images[:, 0] > 0.5).long() + (images[:, 0] > 1.2).long()
    optimizer = torch.optim.SGD(path.parameters(), lr=0.02, momentum=0.9)
    curve = []
    for step in range(steps):
        at = slice(2 * (step % 2), 2 * (step % 2) + 2)
        loss = torch.nn.functional.cross_entropy(path(images[at]), labels[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


def test_a_short_training_has_the_same_curve_as_in_plain_torch(monkeypatch):
    """Where rounding cannot grow: at a kink it decides between two slopes, and a few such voxels part any two curves."""
    ours = losses(50, kinks=False)
    monkeypatch.setenv("U2NET_KERNELS", "reference")
    plain = losses(50, kinks=False)
    assert plain[-1] < 0.8 * plain[0]  # it learns: a curve that stays flat would prove nothing
    assert max(abs(a - b) for a, b in zip(ours, plain, strict=True)) <= 1e-3


def test_a_short_training_with_activations_learns_as_much_as_in_plain_torch(monkeypatch):
    """Plain float32 parts from float64 by 0.03 within these steps, so the first agree closely and the last on average."""
    ours = losses(50, kinks=True)
    monkeypatch.setenv("U2NET_KERNELS", "reference")
    plain = losses(50, kinks=True)
    assert max(abs(a - b) for a, b in zip(ours[:3], plain[:3], strict=True)) <= 1e-3
    assert plain[-1] < 0.8 * plain[0]
    assert abs(sum(ours[-10:]) - sum(plain[-10:])) / 10 <= 0.05


class Outputs(Dataset):
    """What the network gives for an image, and the gradient of its output filter, computed by a loader's worker."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(index)
        net = network(STRIDES["halved"]).train()
        out = net(torch.randn(1, 1, 8, 8, 8))
        out.square().sum().backward()
        return out.detach(), net.domains["a"]["output"].weight.grad


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_workers_compute_as_their_parent_does_after_it_did(start):
    expected = [Outputs()[i] for i in range(2)]
    loader = DataLoader(Outputs(), batch_size=None, num_workers=1, multiprocessing_context=start)
    for (out, gradient), (wanted, wanted_gradient) in zip(loader, expected, strict=True):
        assert torch.equal(out, wanted) and torch.equal(gradient, wanted_gradient)


def mixed(threads: int) -> torch.Tensor:
    """A filter, its norm and a mixture of channels on several threads of the kernels' own."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(2)
    x, w, m = (torch.randn(s, generator=generator) for s in ((1, 6, 9, 8, 16), (6, 1, 3, 3, 3), (5, 6, 1, 1, 1)))
    norm = Norm(torch.ones(6), torch.zeros(6), 0.01)
    return pointwise_conv3d(filter_norm_act(x, w, torch.zeros(6), norm, (1, 1, 1)), m, torch.zeros(5))


def send(queue, threads: int) -> None:
    queue.put(mixed(threads).numpy())


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_have_threads_of_their_own(start):
    """The parent's pool of threads is used before: a forked process has its memory but not its threads."""
    before = torch.get_num_threads()
    try:
        expected = mixed(2)
    finally:
        torch.set_num_threads(before)
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    process = context.Process(target=send, args=(queue, 2))
    process.start()
    try:
        assert torch.equal(torch.from_numpy(queue.get(timeout=120)), expected)
        process.join(30)
        assert process.exitcode == 0
    finally:
        if process.is_alive():
            process.kill()


def test_two_networks_in_two_threads_give_what_each_gives_alone():
    nets = [network(STRIDES["halved"]), network(STRIDES["one axis"])]
    x = torch.randn(1, 1, 8, 8, 16)
    alone = [net(x) for net in nets]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda i: nets[i % 2](x), range(8)))
    assert all(torch.equal(out, alone[i % 2]) for i, out in enumerate(together))


def test_importing_the_network_compiles_nothing():
    """numba, whose import alone takes a second, comes with the first call of a kernel."""
    code = "import sys, custom_components, custom_components.networks; print('numba' in sys.modules, 'llvmlite' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout.split() == ["False", "False"]


def test_compiles_in_one_graph_and_equals_eager():
    """The graph that torch traces, forward and backward, run without a C++ compiler: ours are single operators in it."""
    net = network(STRIDES["halved"]).train()
    x = torch.randn(1, 1, 8, 8, 8)
    path = net.select("a")
    compiled = torch.compile(path, backend="aot_eager", fullgraph=True)
    results = []
    for call in (path, compiled):
        net.zero_grad(set_to_none=True)
        out = call(x)
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in net.parameters())])
    for actual, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(results[0][0].abs().max()))
