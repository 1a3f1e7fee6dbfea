"""`U2Net`: parameter counts of the original, ownership, and what adding a domain must leave alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from custom_components.networks import U2Net


def description(inputs: int, outputs: int, pools: tuple[int, int, int], kernel: int = 3) -> dict:
    """A domain with ``pools`` halvings along z, y, x."""
    levels = max(pools)
    strides = [[2 if level < n else 1 for n in pools] for level in range(levels)]
    return {
        "in_channels": inputs,
        "out_channels": outputs,
        "strides": strides,
        "kernel_sizes": [[kernel] * 3] * (levels + 1),
    }


FIVE = {
    name: description(i, o, (5, 5, 5))
    for name, i, o in (("heart", 1, 2), ("liver", 1, 2), ("hippocampus", 1, 3), ("prostate", 2, 3), ("pancreas", 1, 2))
}
SET_UPS = [
    ("separable", "separable", "heads"),
    ("separable", "dense", "sum"),
    ("series", "dense", "sum"),
    ("parallel", "separable", "none"),
    ("none", "dense", "heads"),
]


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def tiny(domains: dict | None = None, **changes) -> U2Net:
    torch.manual_seed(0)
    settings = {"channels": (4, 8, 12), **changes}
    return U2Net(domains or {"a": description(1, 3, (2, 2, 2))}, **settings)


@pytest.mark.parametrize(
    ("pools", "inputs", "outputs", "channels", "expected"),
    [
        ((4, 5, 5), 1, 2, (16, 32, 64, 128, 256, 512), 33_113_214),
        ((2, 5, 5), 2, 3, (16, 32, 64, 128, 256, 512), 33_113_765),
        ((3, 3, 3), 1, 3, (16, 32, 64, 128), 2_055_285),
    ],
)
def test_independent_set_up_has_the_originals_parameters(pools, inputs, outputs, channels, expected):
    net = U2Net({"d": description(inputs, outputs, pools)}, channels, adapter="none", downsampling="dense")
    assert count(net) == expected


@pytest.mark.parametrize(
    ("adapter", "expected"), [("none", 33_152_724), ("separable", 6_577_460), ("series", 38_009_124), ("parallel", 38_847_044)]
)
def test_five_domains_have_the_originals_parameters(adapter, expected):
    assert count(U2Net(FIVE, adapter=adapter, downsampling="dense")) == expected


def test_a_sixth_domain_costs_the_originals_parameters():
    net = U2Net(FIVE, adapter="separable", downsampling="dense")
    net.add_domain("spleen", description(1, 2, (5, 5, 5)))
    assert count(net) == 6_722_050
    assert count(net.domains["spleen"]) == 144_590


def test_separable_downsampling_makes_the_universal_network_a_third():
    assert count(U2Net(FIVE)) == 2_112_468


@pytest.mark.parametrize(("adapter", "downsampling", "deep_supervision"), SET_UPS)
def test_every_parameter_has_one_owner(adapter, downsampling, deep_supervision):
    net = tiny({"a": description(1, 3, (2, 2, 2)), "b": description(2, 2, (2, 2, 2))}, adapter=adapter, downsampling=downsampling)
    keys = list(net.state_dict())
    assert {k.split(".")[0] for k in keys} == {"trunk", "domains"}
    assert set(net.adapter_state("a")) | set(net.adapter_state("b")) | set(net.trunk_state()) == set(keys)
    # every parameter of a domain, and of the trunk, takes part in the domain's output
    net.train()
    net(torch.randn(1, 1, 8, 8, 8), "a").square().sum().backward()
    moved = {name for name, p in net.named_parameters() if p.grad is not None}
    assert moved == {n for n, _ in net.named_parameters() if not n.startswith("domains.b.")}


@pytest.mark.parametrize(("adapter", "downsampling", "deep_supervision"), SET_UPS)
def test_adding_and_training_a_domain_leaves_the_others_bit_identical(adapter, downsampling, deep_supervision):
    net = tiny(adapter=adapter, downsampling=downsampling, deep_supervision=deep_supervision)
    x = torch.randn(2, 1, 8, 12, 8)
    before = net.eval()(x)
    fingerprint = net.trunk_fingerprint()
    net.add_domain("b", description(2, 2, (2, 2, 2)))
    net.freeze_trunk().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        out = net(torch.randn(1, 2, 8, 8, 8), "b")
        sum(o.square().mean() for o in (out if isinstance(out, list) else [out])).backward()
        optimizer.step()
    assert torch.equal(net.eval()(x, "a"), before)
    assert net.trunk_fingerprint() == fingerprint


def test_domains_have_their_own_strides_kernels_and_levels():
    flat = {**description(1, 2, (0, 1, 1)), "kernel_sizes": [[1, 3, 3], [3, 3, 3]]}
    net = tiny({"deep": description(1, 3, (2, 2, 2)), "flat": flat}).eval()
    assert net(torch.randn(1, 1, 5, 6, 6), "flat").shape == (1, 2, 5, 6, 6)
    assert net(torch.randn(1, 1, 8, 8, 8), "deep").shape == (1, 3, 8, 8, 8)


def test_heads_are_coarser_outputs_while_training_only():
    net = tiny({"a": description(1, 3, (3, 3, 2))}, channels=(4, 6, 8, 10), deep_supervision="heads")
    shapes = [tuple(o.shape) for o in net.train()(torch.randn(1, 1, 8, 16, 8))]
    assert shapes == [(1, 3, 8, 16, 8), (1, 3, 4, 8, 4), (1, 3, 2, 4, 2)]
    assert net.eval()(torch.randn(1, 1, 8, 16, 8)).shape == (1, 3, 8, 16, 8)


@pytest.mark.parametrize(("adapter", "downsampling", "deep_supervision"), SET_UPS)
def test_scripts_traces_pickles_and_copies(adapter, downsampling, deep_supervision):
    net = tiny(adapter=adapter, downsampling=downsampling, deep_supervision=deep_supervision).eval()
    x = torch.randn(1, 1, 8, 12, 16)
    expected = net(x)
    torch.testing.assert_close(torch.jit.script(net)(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.jit.trace(net, x, check_trace=False)(x), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), expected)
    assert torch.equal(copy.deepcopy(net)(x), expected)
    assert torch.equal(net.select("a")(x), expected)
    again = U2Net(**net.config).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), expected)


def test_select_shares_storage():
    net = tiny()
    addresses = {p.data_ptr() for p in net.parameters()}
    assert {p.data_ptr() for p in net.select().parameters()} == addresses


def test_kernels_and_reference_give_the_same_gradients_per_tensor(monkeypatch):
    net = tiny({"a": description(1, 3, (2, 2, 2))}).train()
    x = torch.randn(2, 1, 8, 12, 8)

    def gradients() -> dict[str, torch.Tensor]:
        net.zero_grad(set_to_none=True)
        net(x).square().sum().backward()
        return {n: p.grad.clone() for n, p in net.named_parameters()}

    fast = gradients()
    monkeypatch.setenv("U2NET_KERNELS", "reference")
    largest = max(g.abs().max() for g in fast.values())
    for name, expected in gradients().items():
        torch.testing.assert_close(fast[name], expected, rtol=1e-3, atol=1e-5 * float(largest), msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net: net(torch.zeros(1, 2, 8, 8, 8)), ["'a'", "1", "2"]),
        (lambda net: net(torch.zeros(1, 1, 8, 9, 8)), ["divisible", "(4, 4, 4)"]),
        (lambda net: net(torch.zeros(1, 1, 8, 8, 8), "b"), ["no domain 'b'", "a"]),
        (lambda net: net.add_domain("a", description(1, 2, (2, 2, 2))), ["exists"]),
        (lambda net: net.add_domain("B!", description(1, 2, (2, 2, 2))), ["B!"]),
        (lambda net: net.add_domain("pop", description(1, 2, (2, 2, 2))), ["pop"]),
        (lambda net: net.add_domain("b", description(1, 2, (3, 3, 3))), ["levels", "3"]),
        (lambda net: net.add_domain("b", {"in_channels": 1}), ["out_channels"]),
        (lambda net: tiny(adapter="sepparable"), ["sepparable", "series"]),
        (
            lambda net: tiny(
                {"a": description(1, 2, (2, 2, 2)), "b": description(1, 2, (1, 2, 2))}, downsampling="dense", adapter="none"
            ),
            ["'b'", "strides"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call(tiny())
    for word in words:
        assert word in str(error.value)


def test_two_domains_need_a_name_and_a_collated_batch_gives_one():
    net = tiny({"a": description(1, 3, (2, 2, 2)), "b": description(1, 2, (2, 2, 2))}).eval()
    x = torch.randn(2, 1, 8, 8, 8)
    with pytest.raises(ValueError, match="which domain"):
        net(x)
    assert torch.equal(net(x, ["b", "b"]), net(x, "b"))
    with pytest.raises(ValueError, match="one domain per batch"):
        net(x, ["a", "b"])
