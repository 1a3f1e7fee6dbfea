"""Time the network against its plain form and against its peers of the same widths, in one process, and print ratios.

    python tests/benchmarks/bench_network.py
    python tests/benchmarks/bench_network.py --device cuda --dtype bfloat16

Sides: ours (with the kernels), the same network in plain torch, the dense network without adapters, MONAI's DynUNet, BasicUNet
and SegResNet, and nnU-Net's PlainConvUNet (``pip install -e .[bench]``; named as absent otherwise). All have four levels of
24, 48, 96 and 192 channels where the architecture lets one choose, two convolutions a level, one channel in and three classes
out. They run in turn, so that a machine whose speed drifts favours none, under one allocator, which keeps large tensors.
Ratios above 1 mean that ours is faster. On a GPU the peers run in channels_last_3d, where they are faster, and all under
autocast with ``--dtype``; CUDA events are read.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from measuring import commit, event_clock, machine
from monai.networks.nets import BasicUNet, DynUNet, SegResNet
from rich.console import Console
from rich.table import Table

from custom_components.allocator import reuse_large_tensors
from custom_components.networks import U2Net

WIDTHS = (24, 48, 96, 192)
SHAPES = [(2, 1, 40, 56, 40), (1, 1, 64, 64, 64), (1, 1, 128, 128, 128)]
OURS = "ours"


def u2net(adapter: str, downsampling: str) -> torch.nn.Module:
    domain = {"in_channels": 1, "out_channels": 3, "strides": [[2, 2, 2]] * 3, "kernel_sizes": [[3, 3, 3]] * 4}
    return U2Net({"d": domain}, WIDTHS, adapter, downsampling, deep_supervision="none")


def dynunet() -> torch.nn.Module:
    strides = [1, 2, 2, 2]
    return DynUNet(3, 1, 3, [3] * 4, strides, strides[1:], filters=WIDTHS)


def plain_conv_unet() -> torch.nn.Module:
    unet = importlib.import_module("dynamic_network_architectures.architectures.unet")
    norm = {"norm_op": torch.nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True, "eps": 1e-5}}
    act = {"nonlin": torch.nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}
    network: torch.nn.Module = unet.PlainConvUNet(
        1, 4, WIDTHS, torch.nn.Conv3d, 3, [1, 2, 2, 2], 2, 3, 2, conv_bias=True, **norm, **act
    )
    return network


MAKERS: dict[str, Callable[[], torch.nn.Module]] = {
    OURS: lambda: u2net("separable", "separable"),
    "plain torch": lambda: u2net("separable", "separable"),
    "dense, no adapter": lambda: u2net("none", "dense"),
    "DynUNet": dynunet,
    "PlainConvUNet": plain_conv_unet,
    "BasicUNet": lambda: BasicUNet(3, 1, 3, features=(*WIDTHS, WIDTHS[-1], WIDTHS[0])),
    "SegResNet": lambda: SegResNet(3, WIDTHS[0], 1, 3, blocks_down=(1, 2, 2, 2), blocks_up=(1, 1, 1)),
}


@contextmanager
def kernels_of(side: str) -> Iterator[None]:
    """The environment variable that forces the reference, for the plain form of ours alone."""
    if side == "plain torch":
        os.environ["U2NET_KERNELS"] = "reference"
    try:
        yield
    finally:
        os.environ.pop("U2NET_KERNELS", None)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        return event_clock(call)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def medians(
    networks: dict[str, torch.nn.Module],
    shape: tuple[int, ...],
    backward: bool,
    runs: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds, and on a GPU the peak of memory in GB, of every side."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    memory: dict[str, float] = {}
    x = torch.randn(shape, device=device)
    for turn in range(runs + 1):
        for name, network in networks.items():
            given = x.to(memory_format=torch.channels_last_3d) if device.type == "cuda" and name != OURS else x

            def call(network: torch.nn.Module = network, given: torch.Tensor = given) -> None:
                with torch.set_grad_enabled(backward), torch.autocast(device.type, dtype, dtype != torch.float32):
                    out = network(given)
                    loss = out.float().square().mean() if backward else None
                if loss is not None:
                    loss.backward()
                    network.zero_grad(set_to_none=True)

            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            with kernels_of(name):
                spent = seconds(call, device)
            if turn:
                times[name].append(spent)
            if device.type == "cuda":
                memory[name] = torch.cuda.max_memory_allocated() / 1e9
    return {name: statistics.median(values) for name, values in times.items()}, memory


def peak_of(side: str, shape: tuple[int, ...]) -> None:
    """In a process of its own: how much forward and backward add to its peak memory, GB."""
    network = MAKERS[side]()
    x = torch.randn(shape)
    before = peak_memory()
    with kernels_of(side):
        network(x).square().mean().backward()
    print(peak_memory() - before)


def peak_memory() -> float:
    """Of this process since it began, GB; `resource.getrusage` would tell its parent's where that was larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def cpu_memory(sides: list[str], shape: tuple[int, ...]) -> dict[str, float]:
    peaks = {}
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # this process keeps the memory of large tensors, which the others need now
    for side in sides:
        command = [sys.executable, __file__, "--peak-of", side, "--shape", "x".join(map(str, shape))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[side] = float(done.stdout.split()[-1])
    return peaks


def build(sides: list[str], device: torch.device) -> tuple[dict[str, torch.nn.Module], list[str]]:
    networks, notes = {}, []
    for name in sides:
        try:
            networks[name] = MAKERS[name]().to(device)
        except ImportError as error:
            notes.append(f"{name}: absent ({error})")
            continue
        if device.type == "cuda" and name != OURS:
            networks[name] = networks[name].to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return networks, notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each side (the median is shown)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of autocast")
    parser.add_argument("--shape", help="one shape alone, such as 1x1x64x64x64")
    parser.add_argument("--sides", help="some of the networks alone, with commas between; ours is always there")
    parser.add_argument("--peak-of", choices=tuple(MAKERS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    reuse_large_tensors()
    torch.set_num_threads(arguments.threads)
    shapes = [tuple(int(n) for n in arguments.shape.split("x"))] if arguments.shape else SHAPES
    if arguments.peak_of:
        peak_of(arguments.peak_of, shapes[0])
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here: nothing was measured.")
        return
    device = torch.device(arguments.device)
    chosen = [name.strip() for name in arguments.sides.split(",")] if arguments.sides else list(MAKERS)
    if unknown := [name for name in chosen if name not in MAKERS]:
        parser.error(f"no network '{unknown[0]}'; there are {', '.join(MAKERS)}")
    networks, notes = build([OURS, *(name for name in chosen if name != OURS)], device)
    table = Table("shape", "what", *(f"{name}, ms" for name in networks))
    for shape in shapes:
        for backward, what in ((False, "forward"), (True, "forward + backward")):
            found, memory = medians(networks, shape, backward, arguments.runs, getattr(torch, arguments.dtype), device)
            own = found[OURS]
            cells = [f"{s * 1e3:.0f}" + ("" if name == OURS else f" ({s / own:.2f}×)") for name, s in found.items()]
            table.add_row("×".join(map(str, shape)), what, *cells)
            print(shape, what, ", ".join(map(" ".join, zip(found, cells, strict=True))), file=sys.stderr, flush=True)
        peaks = memory if device.type == "cuda" else cpu_memory(list(networks), shape)
        table.add_row("×".join(map(str, shape)), "peak memory, GB", *(f"{peaks[name]:.2f}" for name in networks))
    counts = ", ".join(f"{name} {sum(p.numel() for p in net.parameters()):,}" for name, net in networks.items())
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{machine()}, {torch.get_num_threads()} threads"
    table.title = f"commit {commit()}, {where}, {arguments.dtype}, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"
    Console(width=190).print(table, f"parameters: {counts}", *notes, sep="\n")


if __name__ == "__main__":
    main()
