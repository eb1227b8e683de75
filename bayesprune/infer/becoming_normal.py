"""Which layers of a network get Normal weights."""

from __future__ import annotations

from torch import nn

from bayesprune.errors import ConfigError
from bayesprune.graph import trace
from bayesprune.layers import Whole, give_normal_slabs, normal_layers

INITIAL_SCALE = 0.5
"""σ of Normal weights at the start, relative to the root mean square of their layer's weights."""


def give_weights(net: nn.Module, weights: str, slab_scale: float | None) -> None:
    """Let the layers of a network have weights of this posterior, in place.

    Args:
        net: The network.
        weights: ``"point"`` or ``"normal"``.
        slab_scale: σ0 of Normal weights, if it was given.

    Raises:
        ConfigError: where the layers do not fit.
    """
    if weights == "point" and slab_scale is not None:
        raise ConfigError("BayesianNet: slab_scale is the scale of Normal weights; pass weights='normal' with it")
    if weights == "point" and normal_layers(net):
        raise ConfigError("BayesianNet: the network's weights are Normal already; pass weights='normal'")
    if weights == "normal":
        skip = _used_elsewhere(net)
        for name in normal_layers(net):
            if name in skip:
                raise ConfigError(
                    f"BayesianNet: layer {name!r} has Normal weights, and is called more than once or read elsewhere, "
                    "where it would have others; give it point weights: give_normal_slabs(net, scale, skip=[...])"
                )
        give_normal_slabs(net, INITIAL_SCALE, skip)
        if not normal_layers(net):
            raise ConfigError(
                "BayesianNet: weights='normal' needs a linear or convolution layer with weights of its own that is "
                "called once, and the network has none; take weights='point'"
            )


def _used_elsewhere(net: nn.Module) -> list[str]:
    """Modules that are called more than once, or whose weights are read, or may be, by others than their one call.

    In a pass with noise each call draws its own outputs, and what is read is the means: neither is one network's.
    """
    traced = trace(net)
    read = {str(node.target).rpartition(".")[0] for node in traced.graph.nodes if node.op == "get_attr" and node.users}
    inside = {part for module in net.modules() if isinstance(module, Whole) for part in module.modules()}
    elsewhere = {*traced.fixed, *traced.repeated, *read}
    return [name for name, module in net.named_modules() if name in elsewhere or module in inside]
