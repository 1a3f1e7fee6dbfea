"""Masks of a bit per voxel on the CPU (numba): packing, dilation, erosion, connected components.

A mask (Z, Y, X) is ``words`` (1 + Z + 1, 1 + Y + 1, 1 + W + 1) of uint64: bit i of word (z + 1, y + 1, w + 1) is voxel
(z, y, 64 w + i); the first and last word of every axis, and the bits beyond X, are 0. Neighbours share a face or an edge (the
18-neighbourhood). Most functions work on rows ``[start, stop)`` of z·y and release the GIL.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.cpython.unsafe import numbers

__all__ = [
    "choose_runs",
    "clear_range",
    "count_runs_range",
    "dilate_range",
    "erode_range",
    "fill_range",
    "find_runs_range",
    "join_runs",
    "pack_range",
    "unpack_range",
]

_trailing_zeros: Any = numbers.trailing_zeros  # its stub has arguments that callers do not give
_compiled: Any = numba.njit(nogil=True, cache=True, error_model="numpy")
_ONE, _LAST, _BITS = np.uint64(1), np.uint64(63), 64
_NONE, _ALL = np.uint64(0), np.uint64(0xFFFFFFFFFFFFFFFF)


@_compiled
def pack_range(classes, index, words, start, stop):  # type: ignore[no-untyped-def]
    """Bits of ``classes == index``; classes (Z, Y, X) uint8."""
    ny, nx = classes.shape[1:]
    for row in range(start, stop):
        line, target = classes[row // ny, row % ny], words[row // ny + 1, row % ny + 1]
        for w in range(target.shape[0] - 2):
            first = w * _BITS
            word = _NONE
            if first + _BITS <= nx:
                part = line[first : first + _BITS]
                for i in range(_BITS):
                    word |= np.uint64(part[i] == index) << np.uint64(i)
            else:
                for i in range(nx - first):
                    word |= np.uint64(line[first + i] == index) << np.uint64(i)
            target[w + 1] = word


@_compiled
def unpack_range(words, out, start, stop):  # type: ignore[no-untyped-def]
    """out (Z, Y, X) uint8: 1 where the bit is set."""
    ny, nx = out.shape[1:]
    for row in range(start, stop):
        line, target = words[row // ny + 1, row % ny + 1], out[row // ny, row % ny]
        for x in range(nx):
            target[x] = np.uint8((line[(x >> 6) + 1] >> np.uint64(x & 63)) & _ONE)


@_compiled
def clear_range(words, kept, out, start, stop):  # type: ignore[no-untyped-def]
    """out = 0 where ``words`` is set and ``kept`` is not; out (Z, Y, X) of any type."""
    ny = out.shape[1]
    for row in range(start, stop):
        z, y = row // ny, row % ny
        for w in range(words.shape[2] - 2):
            rest = words[z + 1, y + 1, w + 1] & ~kept[z + 1, y + 1, w + 1]
            while rest != _NONE:
                out[z, y, w * _BITS + _trailing_zeros(rest)] = 0
                rest &= rest - _ONE


@_compiled
def fill_range(words, kept, index, out, start, stop):  # type: ignore[no-untyped-def]
    """out = ``index`` where ``kept`` is set, ``words`` is not, and out is 0."""
    ny = out.shape[1]
    for row in range(start, stop):
        z, y = row // ny, row % ny
        for w in range(words.shape[2] - 2):
            rest = kept[z + 1, y + 1, w + 1] & ~words[z + 1, y + 1, w + 1]
            while rest != _NONE:
                x = w * _BITS + _trailing_zeros(rest)
                if out[z, y, x] == 0:
                    out[z, y, x] = index
                rest &= rest - _ONE


@_compiled
def dilate_range(words, nx, out, start, stop):  # type: ignore[no-untyped-def]
    """By the 18-neighbourhood; ``out`` are other words."""
    ny, count = words.shape[1] - 2, words.shape[2]
    near = np.empty(count, np.uint64)
    rest = np.uint64(nx % _BITS)
    for row in range(start, stop):
        z, y = row // ny, row % ny
        up, here, down = words[z], words[z + 1], words[z + 2]
        for w in range(count):
            near[w] = here[y + 1, w] | up[y + 1, w] | down[y + 1, w] | here[y, w] | here[y + 2, w]
        target = out[z + 1, y + 1]
        for w in range(1, count - 1):
            edges = up[y, w] | up[y + 2, w] | down[y, w] | down[y + 2, w]
            across = (near[w] << _ONE) | (near[w] >> _ONE) | (near[w - 1] >> _LAST) | (near[w + 1] << _LAST)
            target[w] = edges | near[w] | across
        if rest != _NONE:
            target[count - 2] &= (_ONE << rest) - _ONE


@_compiled
def erode_range(words, out, start, stop):  # type: ignore[no-untyped-def]
    """By the 18-neighbourhood; what lies outside the array is not set."""
    ny, count = words.shape[1] - 2, words.shape[2]
    near = np.empty(count, np.uint64)
    for row in range(start, stop):
        z, y = row // ny, row % ny
        up, here, down = words[z], words[z + 1], words[z + 2]
        for w in range(count):
            near[w] = here[y + 1, w] & up[y + 1, w] & down[y + 1, w] & here[y, w] & here[y + 2, w]
        target = out[z + 1, y + 1]
        for w in range(1, count - 1):
            edges = up[y, w] & up[y + 2, w] & down[y, w] & down[y + 2, w]
            across = ((near[w] << _ONE) | (near[w - 1] >> _LAST)) & ((near[w] >> _ONE) | (near[w + 1] << _LAST))
            target[w] = edges & near[w] & across


@_compiled
def count_runs_range(words, counts, start, stop):  # type: ignore[no-untyped-def]
    """counts[row]: how many runs of neighbouring voxels a row has."""
    ny = words.shape[1] - 2
    for row in range(start, stop):
        line = words[row // ny + 1, row % ny + 1]
        carry, count = _NONE, 0
        for w in range(1, line.shape[0]):
            starts = line[w] & ~((line[w] << _ONE) | carry)
            carry = line[w] >> _LAST
            while starts != _NONE:
                starts &= starts - _ONE
                count += 1
        counts[row] = count


@_compiled
def find_runs_range(words, offsets, runs, start, stop):  # type: ignore[no-untyped-def]
    """runs[i] = first voxel along x of a run, and the one after its last; those of a row from offsets[row] on."""
    ny = words.shape[1] - 2
    for row in range(start, stop):
        line = words[row // ny + 1, row % ny + 1]
        first = last = offsets[row]
        carry = _NONE
        for w in range(1, line.shape[0]):  # the word of zeros too, in which a run may stop
            before = (line[w] << _ONE) | carry
            carry = line[w] >> _LAST
            starts, stops = line[w] & ~before, before & ~line[w]
            while starts != _NONE:
                runs[first, 0] = (w - 1) * _BITS + _trailing_zeros(starts)
                starts &= starts - _ONE
                first += 1
            while stops != _NONE:
                runs[last, 1] = (w - 1) * _BITS + _trailing_zeros(stops)
                stops &= stops - _ONE
                last += 1


@_compiled
def join_runs(offsets, runs, ny, parents, sizes):  # type: ignore[no-untyped-def]
    """Connected components of runs, all at once.

    Args:
        offsets: (Z·Y + 1,) int64, first run of every row.
        runs: (R, 2) int32.
        ny: rows of a plane.
        parents: (R,) int32; becomes, for every run, the first run of its component.
        sizes: (R,) int64, zeros; becomes the voxels of a component, at its first run.
    """
    for i in range(parents.shape[0]):
        parents[i] = i
    for row in range(offsets.shape[0] - 1):
        if offsets[row] == offsets[row + 1]:
            continue
        y = row % ny
        if y > 0:
            _join_rows(offsets, runs, parents, row, row - 1, 1)
        if row >= ny:
            _join_rows(offsets, runs, parents, row, row - ny, 1)
            if y > 0:
                _join_rows(offsets, runs, parents, row, row - ny - 1, 0)
            if y + 1 < ny:
                _join_rows(offsets, runs, parents, row, row - ny + 1, 0)
    for i in range(parents.shape[0]):
        root = parents[parents[i]]  # whose own parent is the root already: it comes before
        parents[i] = root
        sizes[root] += runs[i, 1] - runs[i, 0]


@_compiled
def choose_runs(offsets, runs, parents, one, two, words, start, stop):  # type: ignore[no-untyped-def]
    """Set the bits of the runs whose component begins with run ``one`` or ``two``; words are zeros before."""
    ny = words.shape[1] - 2
    for row in range(start, stop):
        line = words[row // ny + 1, row % ny + 1]
        for i in range(offsets[row], offsets[row + 1]):
            if parents[i] != one and parents[i] != two:
                continue
            low, high = runs[i, 0], runs[i, 1]
            for w in range(low >> 6, (high + 63) >> 6):
                word = _ALL
                if w * _BITS < low:
                    word &= _ALL << np.uint64(low - w * _BITS)
                if high < (w + 1) * _BITS:
                    word &= (_ONE << np.uint64(high - w * _BITS)) - _ONE
                line[w + 1] |= word


@_compiled
def _join_rows(offsets, runs, parents, row, other, reach):  # type: ignore[no-untyped-def]
    """Join runs of two rows that come within ``reach`` voxels of each other along x."""
    i, j = offsets[row], offsets[other]
    while i < offsets[row + 1] and j < offsets[other + 1]:
        if runs[i, 0] < runs[j, 1] + reach and runs[j, 0] < runs[i, 1] + reach:
            a, b = _root(parents, i), _root(parents, j)
            if a < b:
                parents[b] = a
            elif b < a:
                parents[a] = b
        if runs[i, 1] < runs[j, 1]:
            i += 1
        else:
            j += 1


@_compiled
def _root(parents, i):  # type: ignore[no-untyped-def]
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i
