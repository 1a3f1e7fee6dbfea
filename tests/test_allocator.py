from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
if sys.argv[1] == "reuse":
    from custom_components.allocator import reuse_large_tensors
    print("set" if reuse_large_tensors() else "not set")
def touch():
    values = np.empty(2**24, np.uint8)
    values[::4096] = 1
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(how: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_memory_of_large_tensors_is_kept():
    """Pages that were touched once are not touched anew: by counted page faults, in processes of their own."""
    state, faults, *_ = run("reuse")
    if state != "set":
        pytest.skip("this C library is not glibc")
    assert int(faults) < 50
    assert int(run("default")[0]) > 100
