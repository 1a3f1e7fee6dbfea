"""`U2Net`: one network for many domains (3D U²-Net, Huang et al., MICCAI 2019).

A domain owns space; the trunk owns channels. A parameter's key tells its owner: ``trunk.…`` or ``domains.<name>.…``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from custom_components.networks.fingerprint import fingerprint
from custom_components.networks.layers import initialise
from custom_components.networks.parts import Plan, Shape, build_domain, build_trunk
from custom_components.networks.path import DomainPath, divisors

__all__ = ["U2Net"]


class U2Net(nn.Module):
    """A U-Net whose trunk all domains share and whose adapters are each one domain's.

    Args:
        domains: name to ``{"in_channels", "out_channels", "strides", "kernel_sizes"}`` (`Domain.network`); strides per
            step and kernels per level, along z, y, x. A domain may use fewer levels than the trunk has. A separable one
            may have ``low_rank`` besides: the rank of a change of its own to each of the trunk's pointwise filters.
        channels: width of each level, finest first.
        adapter: ``separable`` (proposed), ``series``, ``parallel``, or ``none`` (shared and independent set-ups).
        downsampling: ``separable``, a strided depthwise filter of the domain then a pointwise one of the trunk; or
            ``dense``, the original's strided 3×3×3 convolution of the trunk.
        deep_supervision: ``sum``, the original's maps added to the output; ``heads``, coarser outputs of their own
            while training; ``none``.

    Raises:
        ValueError: a domain does not fit; the message names domain and field. A trunk with dense filters wants equal
            strides (``dense``) and kernels (series, parallel, none) in all domains.
    """

    def __init__(
        self,
        domains: Mapping[str, Mapping[str, Any]],
        channels: Sequence[int] = (16, 32, 64, 128, 256, 512),
        adapter: str = "separable",
        downsampling: str = "separable",
        deep_supervision: str = "sum",
    ) -> None:
        super().__init__()
        if not domains:
            raise ValueError("U2Net needs at least one domain")
        self.plan = Plan(tuple(channels), adapter, downsampling, deep_supervision)
        self.shapes: dict[str, Shape] = {}
        self._paths: dict[str, DomainPath] = {}
        # The trunk takes dense kernels and strides from the deepest domain, which states all of them.
        deepest = max((Shape.from_mapping(n, d, self.plan) for n, d in domains.items()), key=lambda s: len(s.strides))
        self.trunk = build_trunk(self.plan, deepest)
        initialise(self.trunk)
        self._trunk_shape = deepest
        self.domains = nn.ModuleDict()
        for name, description in domains.items():
            self.add_domain(name, description)

    def forward(self, x: Tensor, domain: str | None = None) -> Tensor | list[Tensor]:
        """Segment images of one domain.

        Args:
            x: (N, C, Z, Y, X), sizes divisible by the product of the domain's strides.
            domain: its name; may be left out where the network has one. A list of equal names (as a batch of
                dictionaries collates) counts as one name.

        Returns:
            Logits (N, K, Z, Y, X). While training with ``deep_supervision="heads"``: a list, these first, then those
            of levels 1 and 2.

        Raises:
            ValueError: no such domain, or x does not fit it.
        """
        name = self._name(domain)
        self._check(x, name)
        path = self._path(name)
        if self.training and self.plan.deep_supervision == "heads":
            return path.forward_heads(x)
        return path(x)

    def select(self, domain: str | None = None) -> DomainPath:
        """One domain as a plain module with one input, sharing storage: for TorchScript, ONNX and other tools."""
        name = self._name(domain)
        return DomainPath(self.plan, self.shapes[name], self.trunk, self.domains[name]).train(self.training)

    def add_domain(self, name: str, description: Mapping[str, Any]) -> None:
        """Add a freshly initialised adapter on the trunk's device; nothing that exists changes.

        Raises:
            ValueError: the name is taken or no identifier, or the description does not fit the trunk.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"domain name '{name}': lower-case letters, digits and underscores are allowed")
        if name in self.domains:
            raise ValueError(f"domain '{name}' exists already")
        if hasattr(self.domains, name):
            raise ValueError(f"domain name '{name}': torch keeps this word for itself; choose another")
        shape = Shape.from_mapping(name, description, self.plan)
        for field, own, trunk in zip(
            ("strides", "kernel_sizes"), shape.trunk_needs(self.plan), self._trunk_shape.trunk_needs(self.plan), strict=True
        ):
            if own is not None and own != trunk[: len(own)]:
                raise ValueError(f"domain '{name}', {field}: a dense trunk has {list(trunk)} for all domains, got {list(own)}")
        adapter = build_domain(self.plan, shape)
        initialise(adapter)
        reference = next(self.trunk.parameters())
        self.shapes[name] = shape
        self.domains[name] = adapter.to(reference.device, reference.dtype).train(self.training)

    def freeze_trunk(self) -> U2Net:
        """Exclude the trunk from training; domains that exist cannot change through it. Returns self."""
        self.trunk.requires_grad_(False)
        return self

    def adapter_state(self, domain: str | None = None) -> dict[str, Tensor]:
        """All that one domain owns: its tensors by their full key, ``domains.<name>.…``."""
        prefix = f"domains.{self._name(domain)}."
        return {key: value for key, value in self.state_dict().items() if key.startswith(prefix)}

    def trunk_state(self) -> dict[str, Tensor]:
        """The shared tensors by their full key, ``trunk.…``."""
        return {key: value for key, value in self.state_dict().items() if key.startswith("trunk.")}

    def trunk_fingerprint(self) -> str:
        """SHA-256 over the trunk's tensors, as hexadecimal digits: an adapter belongs to one trunk."""
        return fingerprint(self.trunk_state())

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        return {
            "domains": {
                name: {
                    "in_channels": s.in_channels,
                    "out_channels": s.out_channels,
                    "strides": [list(v) for v in s.strides],
                    "kernel_sizes": [list(v) for v in s.kernel_sizes],
                    **({"low_rank": s.low_rank} if s.low_rank else {}),
                }
                for name, s in self.shapes.items()
            },
            "channels": list(self.plan.channels),
            "adapter": self.plan.adapter,
            "downsampling": self.plan.downsampling,
            "deep_supervision": self.plan.deep_supervision,
        }

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles: the one domain's path."""
        return self.select()

    def _path(self, name: str) -> DomainPath:
        if name not in self._paths:
            self._paths[name] = self.select(name)
        return self._paths[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_paths": {}}  # wiring is made again where it is needed

    def _name(self, domain: str | Sequence[str] | None) -> str:
        names = list(self.domains)
        if domain is None:
            if len(names) != 1:
                raise ValueError(f"which domain? This network has {', '.join(names)}")
            return names[0]
        if not isinstance(domain, str):
            if len(set(domain)) != 1:
                raise ValueError(f"one domain per batch, got {', '.join(sorted(set(domain)))}")
            domain = domain[0]
        if domain not in self.domains:
            raise ValueError(f"no domain '{domain}' in this network; it has {', '.join(names)}")
        return domain

    def _check(self, x: Tensor, name: str) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        shape = self.shapes[name]
        if x.ndim != 5 or x.shape[1] != shape.in_channels:
            raise ValueError(f"domain '{name}' takes (N, {shape.in_channels}, Z, Y, X), got {tuple(x.shape)}")
        factors = divisors(shape.strides)
        if any(n % f for n, f in zip(x.shape[2:], factors, strict=True)):
            raise ValueError(f"domain '{name}' takes sizes divisible by {factors}, got {tuple(x.shape[2:])}")
