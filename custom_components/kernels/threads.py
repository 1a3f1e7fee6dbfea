"""Spread a range over as many threads as torch uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import torch

__all__ = ["run_ranges"]


def run_ranges(work: Callable[[int, int], None], count: int, least: int = 1) -> None:
    """Call ``work(start, stop)`` on disjoint parts of ``range(count)``, on up to `torch.get_num_threads` threads.

    No part is smaller than ``least``, since waking a thread takes time too. ``work`` must release the GIL to gain
    anything. An exception in any part is raised here.
    """
    threads = min(torch.get_num_threads(), max(1, count // least))
    if threads <= 1:
        work(0, count)
        return
    bounds = [count * i // threads for i in range(threads + 1)]
    jobs = [_pool(os.getpid(), threads).submit(work, a, b) for a, b in pairwise(bounds[1:])]
    work(bounds[0], bounds[1])  # this thread takes its share too
    for job in jobs:
        job.result()


@lru_cache(maxsize=4)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    """One pool per process (threads do not survive a fork) and thread count."""
    return ThreadPoolExecutor(max_workers=threads, thread_name_prefix="u2net-kernel")
