"""What is put on modules from outside is refused where it would be lost: model, compact network, file."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from bayesprune import layers
from bayesprune.errors import TraceError
from bayesprune.infer import BayesianNet
from bayesprune.pruning import compact, save


def network() -> nn.Sequential:
    return nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))


def old_norm(norm: Callable[[nn.Module], nn.Module], layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        norm(layer)


def other_forward(layer: nn.Module) -> None:
    layer.forward = lambda x: x * 2


ADDITIONS = {
    "forward hook": (lambda m: m.register_forward_hook(lambda m, i, o: o + 1), "a forward hook, .*handle.remove"),
    "pre-hook": (lambda m: m.register_forward_pre_hook(lambda m, i: (i[0] + 1,)), "a forward pre-hook"),
    "hook with keywords": (lambda m: m.register_forward_hook(lambda *a: None, with_kwargs=True), "a forward hook"),
    "backward hook": (lambda m: m.register_full_backward_hook(lambda m, i, o: None), "a backward hook"),
    "backward pre-hook": (lambda m: m.register_full_backward_pre_hook(lambda m, o: None), "a backward pre-hook"),
    "forward": (other_forward, "a forward method set on the object"),
}
WEIGHTS = {
    "weight_norm": (parametrizations.weight_norm, "a parametrisation of weight .*remove_parametrizations"),
    "spectral_norm": (parametrizations.spectral_norm, "a parametrisation of weight"),
    "old weight_norm": (lambda m: old_norm(nn.utils.weight_norm, m), "weight normalisation.*remove_weight_norm"),
    "old spectral_norm": (
        lambda m: old_norm(nn.utils.spectral_norm, m),
        "spectral normalisation.*remove_spectral_norm",
    ),
    "mask": (lambda m: prune.random_unstructured(m, "weight", 0.5), r"a mask of .*prune\.remove\(module, 'weight'\)"),
}


@pytest.mark.parametrize("place", ["0", "1", "3", ""])
@pytest.mark.parametrize("kind", ADDITIONS)
def test_refused_everywhere(kind: str, place: str) -> None:
    add, message = ADDITIONS[kind]
    message = (f"module {place!r}" if place else "the network") + f" has {message}"
    net = network()
    add(net.get_submodule(place))
    for refuse in (lambda: BayesianNet(net, num_data=5), lambda: compact(net)):
        with pytest.raises(TraceError, match=message):
            refuse()


@pytest.mark.parametrize("place", ["0", "3"])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_made_of_other_parameters(kind: str, place: str) -> None:
    add, message = WEIGHTS[kind]
    net = network()
    add(net.get_submodule(place))
    for refuse in (lambda: BayesianNet(net, num_data=5), lambda: compact(net)):
        with pytest.raises(TraceError, match=f"module '{place}' has {message}"):
            refuse()


def test_set_later_and_taken_off_again() -> None:
    """A model that is built already refuses to be compacted, and does so no more once the hook is gone."""
    bnn = BayesianNet(network(), num_data=5).eval()
    handle = bnn.net[2].register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(TraceError, match="module '2' has a forward hook"):
        compact(bnn)
    handle.remove()
    x = torch.randn(5, 3)
    torch.testing.assert_close(compact(bnn)(x), bnn.net(x), rtol=0, atol=1e-6)


def test_files(tmp_path) -> None:
    plain = compact(network())
    plain.register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(TraceError, match="the network has a forward hook"):
        save(plain, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_lazy_layers() -> None:
    net = nn.Sequential(layers.Linear(3, 4, gate="unit"), nn.LazyLinear(2))
    with pytest.raises(TraceError, match=r"module '1' has parameters without a shape .* first pass one batch"):
        BayesianNet(net, num_data=5)
    net(torch.randn(2, 3))
    BayesianNet(net, num_data=5)
