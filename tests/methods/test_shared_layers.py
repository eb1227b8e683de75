"""Layers that share a weight, are held twice, or are called by keyword: methods treat them as what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayesprune.methods import get_method
from bayesprune.methods.sparse_vd import SparseVariationalDropout
from bayesprune.training import Settings, fit
from bayesprune.training.views import sites_of
from tests.methods.test_statistics import asked
from tests.methods.toys import batches


class Layer(nn.Linear):
    """Remembers with which weight it computed in training, and with how many hooks behind it."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes)
        self.seen: list[tuple[Tensor, int]] = []

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            self.seen.append((self.weight.detach().clone(), len(self._forward_hooks)))
        return super().forward(input)


class Shared(nn.Module):
    """Two layers in the middle, which are one and the same, share a weight, or have the last layer's weight as well."""

    def __init__(self, how: str = "tied", kind: type[nn.Linear] = Layer):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.h, self.b, self.o = (kind(inputs, 24) for inputs in (8, 24, 24, 24))
        if how == "held twice":
            self.b = self.h
        elif how == "tied":
            self.b.weight = self.h.weight
        else:
            self.o.weight = self.h.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.b(self.h(self.a(x).relu()).relu()).relu())[:, :2]


def test_a_weight_that_is_shared_is_one_place() -> None:
    """Under its first name, and the last place if the last layer has it, since methods leave that one alone."""
    for how, expected, layers in (("held twice", "aho", "h"), ("tied", "aho", "hb"), ("with the last", "abh", "ho")):
        net = Shared(how)
        sites = {site.name.removesuffix(".weight"): site for site in sites_of(net)}
        assert "".join(sites) == expected
        assert sites["h"].holders(net) == [net.get_submodule(name) for name in layers]


@pytest.mark.parametrize("name", ["magnitude", "sparse_vd", "movement", "targeted_dropout", "dropout_norms"])
def test_all_layers_of_a_weight_compute_with_what_a_method_makes_of_it(name: str) -> None:
    net, share = Shared(), "gamma" if name == "targeted_dropout" else "sparsity"
    options: dict[str, Any] = {"units": 0.0} if name == "dropout_norms" else {"alpha": 1.0} if share == "gamma" else {}
    fit(net, batches(), epochs=4, method=get_method(name, **{share: 0.5}, **options), settings=Settings(lr=0.01))
    assert net.b.weight is net.h.weight
    rows = [net.a, net.h] if share == "gamma" else [net.a, net.h, net.o]
    gone = sum(int((layer.weight == 0).sum()) for layer in rows)
    assert gone == sum(layer.weight.numel() for layer in rows) // 2
    assert len(net.h.seen) == len(net.b.seen) > 0
    passes = list(zip(net.h.seen, net.b.seen, strict=True))
    for (first, hooks), (second, others) in passes[len(passes) // 2 if share == "gamma" else 0 :]:  # where α is 1
        assert torch.equal(first, second) and hooks == others
    assert any(hooks for _, hooks in net.b.seen) == (name in ("sparse_vd", "movement", "targeted_dropout"))


@pytest.mark.parametrize(("how", "alone"), [("held twice", "ao"), ("with the last", "ab")])
def test_layers_that_share_are_not_factorised(how: str, alone: str) -> None:
    net = Shared(how, nn.Linear)
    fit(net, batches(), epochs=2, method=get_method("factorised", share=0.5))
    assert [name for name in "ahbo" if not isinstance(net.get_submodule(name), nn.Linear)] == [*alone]


class Called(nn.Module):
    """A network whose layers are called by place or by keyword."""

    def __init__(self, by: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.by = nn.Linear(8, 6), nn.Linear(6, 2), by

    def forward(self, x: Tensor) -> Tensor:
        return self.by(self.b, self.by(self.a, x).relu())


def test_layers_that_are_called_by_keyword_are_as_others() -> None:
    nets = [Called(lambda layer, x: layer(x)), Called(lambda layer, x: layer(input=x))]
    first, second = (asked(net, "in_out", "vectors", "zeros_in", examples=10)[0][0] for net in nets)
    for name in ("a.weight", "b.weight"):
        assert torch.equal(first.in_out[name].inputs, second.in_out[name].inputs)
        assert torch.equal(first.vectors[name], second.vectors[name])
        assert torch.equal(first.zeros_in[name], second.zeros_in[name])
    for net in nets:
        torch.manual_seed(1)
        fit(net, batches(), epochs=2, method=SparseVariationalDropout(sparsity=0.5, start=-2.0))
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)
