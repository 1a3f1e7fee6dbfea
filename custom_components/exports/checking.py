"""An exported file is run before it is kept: what it computes against what the network computes in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.networks.path import divisors

__all__ = ["Agreement", "check_agreement", "sizes_to_check"]

SEED = 0


@dataclass(frozen=True)
class Agreement:
    """How far an exported file is from the network, on one input.

    Attributes:
        shape: of the input.
        largest: absolute logit.
        absolute: largest difference of a logit from the network's in float64.
        rounding: the same of the network itself in float32, by plain torch.
        classes: voxels whose largest logit is another class's.
        voxels: of all.
    """

    shape: tuple[int, ...]
    largest: float
    absolute: float
    rounding: float
    classes: int
    voxels: int

    @property
    def relative(self) -> float:
        """The difference as a part of the largest logit."""
        return self.absolute / self.largest if self.largest else self.absolute


def check_agreement(
    network: nn.Module, exported: Callable[[Tensor], Tensor], domain: Domain, tolerance: float, name: str
) -> list[Agreement]:
    """Run both on noise of the sizes of `sizes_to_check`.

    Args:
        network: (N, C, Z, Y, X) to logits, on the CPU, in evaluation mode.
        exported: the same as the file has it.
        domain: the task.
        tolerance: largest difference of a logit, as a part of the largest logit.
        name: of the file, for the message.

    Raises:
        InputError: a shape, or a value beyond the tolerance, is another.
    """
    exact = copy.deepcopy(network).double()
    plain = copy.deepcopy(network).float()
    found = []
    generator = torch.Generator().manual_seed(SEED)
    for batch, size in sizes_to_check(domain):
        image = torch.randn(batch, domain.in_channels, *size, generator=generator)
        with torch.no_grad():
            expected, own, given = exact(image.double()), plain(image), exported(image)
        if given.shape != expected.shape:
            raise InputError(f"{name}: gives {tuple(given.shape)} where the network gives {tuple(expected.shape)}; not written")
        largest, absolute = float(expected.abs().max()), float((given - expected).abs().max())
        others = int((given.argmax(1) != expected.argmax(1)).sum())
        rounding = float((own - expected).abs().max())
        agreement = Agreement(tuple(image.shape), largest, absolute, rounding, others, expected[:, 0].numel())
        if not agreement.relative <= tolerance:  # 'not <=' so that NaN fails
            raise InputError(
                f"{name}: differs from the network by {absolute:.2g} in a logit, {agreement.relative:.2g} of the largest, on an "
                f"input of {'×'.join(map(str, image.shape))}; {tolerance:g} is allowed (--tolerance). Not written"
            )
        found.append(agreement)
    return found


def sizes_to_check(domain: Domain) -> list[tuple[int, Sequence[int]]]:
    """Batch and (z, y, x): one patch; two of another size, a step of the strides off along every axis."""
    other = [n - f if n > 2 * f else n + f for n, f in zip(domain.patch_size, divisors(domain.strides), strict=True)]
    return [(1, domain.patch_size), (2, other)]
