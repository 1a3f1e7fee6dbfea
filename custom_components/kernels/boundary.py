"""What a coordinate outside an array reads: the five boundary modes of `scipy.ndimage.map_coordinates`.

| mode | an array ``a b c d`` continues as |
|---|---|
| constant | ``k k k k | a b c d | k k k k``; no interpolation with k: a coordinate outside [0, n − 1] is k |
| reflect | ``d c b a | a b c d | d c b a`` |
| mirror | ``d c b | a b c d | c b a`` |
| nearest | ``a a a a | a b c d | d d d d`` |
| wrap | period n − 1, as SciPy's ``wrap`` (not ``grid-wrap``): the first and the last voxel are taken for one |
"""

from __future__ import annotations

from typing import Final

__all__ = ["BOUNDARY_MODES"]

# Their numbers are the kernels' codes.
BOUNDARY_MODES: Final = ("constant", "reflect", "mirror", "nearest", "wrap")
