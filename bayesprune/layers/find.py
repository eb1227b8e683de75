"""Which gates a network has, what they are called, and which of its parameters are those of a plain network."""

from __future__ import annotations

from torch import nn

from bayesprune.arguments import checked_arguments
from bayesprune.layers.gate import Gate
from bayesprune.layers.gated import GatedLayer
from bayesprune.layers.normal import SCALES, NormalLayer
from bayesprune.layers.residual import Residual

OWNERS = (GatedLayer, Residual)


@checked_arguments
def gates_of(net: nn.Module) -> dict[str, Gate]:
    """All gates of ``net``, in the order of its modules.

    A gate that belongs to a gated layer or a `Residual` bears the name of that module; one that stands alone bears its
    own. One in several places is listed once, by the first of them.
    """
    modules = dict(net.named_modules())
    gates = {}
    for name, module in modules.items():
        if isinstance(module, Gate):
            parent, _, child = name.rpartition(".")
            owned = child == "gate" and isinstance(modules[parent], OWNERS)
            gates[module.label or (parent if owned else name)] = module
    return gates


@checked_arguments
def holders_of(net: nn.Module) -> dict[Gate, dict[str, nn.Module]]:
    """For each gate of ``net`` the gated layers and residual blocks that hold it, by name; none if it stands alone."""
    holders: dict[Gate, dict[str, nn.Module]] = {gate: {} for gate in gates_of(net).values()}
    for name, module in net.named_modules():
        gate = getattr(module, "gate", None)
        if isinstance(module, OWNERS) and isinstance(gate, Gate):
            holders[gate][name] = module
    return holders


@checked_arguments
def plain_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a plain network has as well, by name: all but θ of gates and log σ of Normal weights."""
    other = {id(gate.theta) for gate in module.modules() if isinstance(gate, Gate)}
    for layer in module.modules():
        if isinstance(layer, NormalLayer):
            other |= {id(getattr(layer, name)) for name in SCALES}
    return {name: p for name, p in module.named_parameters() if id(p) not in other}
