"""Time our kernels and the whole network against plain torch, in one process, and print ratios.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_kernels.py
    python tests/benchmarks/bench_kernels.py --device cuda

The two sides of each row run in turn, so that a machine whose speed drifts favours neither. Ratios above 1 mean that
ours is faster. Large tensors go back to the system after every use unless the allocator is told to keep them; the
README names the environment variables, and they serve both sides alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from measuring import commit
from rich.console import Console
from rich.table import Table

from custom_components.kernels import (
    depthwise_conv3d,
    depthwise_conv3d_reference,
    instance_norm_act,
    instance_norm_act_reference,
)
from custom_components.networks import U2Net

SHAPES = [(2, 16, 40, 56, 40), (2, 32, 20, 28, 20), (1, 16, 64, 64, 64), (1, 16, 128, 128, 128)]


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def paired_medians(ours: Callable[[], object], theirs: Callable[[], object], runs: int, device: str) -> tuple[float, float]:
    """Median seconds of both, run alternately after one warm-up each."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs + 1):
        for side, work in zip(times, (ours, theirs), strict=True):
            wait(device)
            start = time.perf_counter()
            work()
            wait(device)
            if turn:
                side.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def kernel_rows(runs: int, device: str):
    """(what, shape, ours, torch) for each kernel, forward and forward + backward."""
    for shape in SHAPES:
        c = shape[1]
        x, gradient = torch.randn(shape, device=device, requires_grad=True), torch.randn(shape, device=device)
        filters, scale, shift = (torch.randn(s, device=device, requires_grad=True) for s in ((c, 1, 3, 3, 3), (c,), (c,)))
        pairs = {
            "depthwise 3×3×3": (
                lambda x=x, w=filters, b=shift: depthwise_conv3d(x, w, b),
                lambda x=x, w=filters, b=shift: depthwise_conv3d_reference(x, w, b),
            ),
            "instance norm + LeakyReLU": (
                lambda x=x, w=scale, b=shift: instance_norm_act(x, w, b),
                lambda x=x, w=scale, b=shift: instance_norm_act_reference(x, w, b),
            ),
        }
        for name, (ours, theirs) in pairs.items():
            with torch.no_grad():
                yield f"{name}, forward", shape, *paired_medians(ours, theirs, runs, device)
            both = [lambda f=f, g=gradient: f().backward(g) for f in (ours, theirs)]
            yield f"{name}, forward + backward", shape, *paired_medians(*both, runs, device)


def network_rows(runs: int, device: str):
    """(what, shape, ours, torch) for the hippocampus network, kernels against its own plain form."""
    domain = {"in_channels": 1, "out_channels": 3, "strides": [[2, 2, 2]] * 3, "kernel_sizes": [[3, 3, 3]] * 4}
    network = U2Net({"d": domain}, channels=(24, 48, 96, 192)).to(device)

    def call(kernels: str, backward: bool, x: torch.Tensor) -> None:
        os.environ["U2NET_KERNELS"] = kernels
        if backward:
            network(x).square().mean().backward()
        else:
            with torch.no_grad():
                network(x)

    for shape in ((2, 1, 40, 56, 40), (1, 1, 64, 64, 64)):
        x = torch.randn(shape, device=device)
        for backward, name in ((False, "forward"), (True, "forward + backward")):
            sides = [lambda k=k, b=backward, x=x: call(k, b, x) for k in ("", "reference")]
            yield f"U2Net 24–192, {name}", shape, *paired_medians(*sides, runs, device)
    os.environ.pop("U2NET_KERNELS", None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each side (median is shown)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    where = f"{torch.get_num_threads()} thread(s)" if options.device == "cpu" else torch.cuda.get_device_name()
    table = Table(title=f"commit {commit()}, torch {torch.__version__}, {where}")
    for column in ("what", "shape", "ours, ms", "plain torch, ms", "ratio"):
        table.add_column(column, justify="left" if column in ("what", "shape") else "right")
    for rows in (kernel_rows, network_rows):
        for what, shape, ours, theirs in rows(options.runs, options.device):
            table.add_row(what, "×".join(map(str, shape)), f"{ours * 1e3:.2f}", f"{theirs * 1e3:.2f}", f"{theirs / ours:.1f}")
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
