"""numba's cache looks at the file of a function alone: what it is compiled from in other files must show in that file."""

import hashlib
from pathlib import Path

import pytest

from custom_components.kernels import pointwise_numba, resample_numba, stencil_numba, vectors

FOLDER = Path(vectors.__file__).parent


@pytest.mark.parametrize(
    ("module", "used"),
    [
        (resample_numba, ["vectors.py", "resample_blocks.py", "rows_numba.py"]),
        (stencil_numba, ["vectors.py", "stencil_blocks.py"]),
        (pointwise_numba, ["vectors.py", "stencil_blocks.py", "pointwise_blocks.py"]),
    ],
)
def test_a_kernel_is_compiled_anew_when_a_file_that_it_uses_changes(module, used):
    digest = hashlib.sha256(b"".join((FOLDER / name).read_bytes() for name in used)).hexdigest()[:12]
    assert digest == module.STAMP, (
        f"{', '.join(used)} changed: set STAMP in {Path(module.__file__).name} to {digest!r}, or numba runs the old code"
    )
