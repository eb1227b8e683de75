"""Which gates a network has, and what they are called."""

from __future__ import annotations

from torch import nn

from bayesprune.layers.gate import Gate
from bayesprune.layers.gated import Conv1d, Conv2d, Linear
from bayesprune.layers.residual import Residual

GATED_LAYERS = (Linear, Conv1d, Conv2d)
OWNERS = (*GATED_LAYERS, Residual)


def gates_of(net: nn.Module) -> dict[str, Gate]:
    """All gates of ``net``, in the order of its modules.

    A gate that belongs to a gated layer or a `Residual` bears the name of that module; one that stands alone bears its
    own.
    """
    modules = dict(net.named_modules())
    gates = {}
    for name, module in modules.items():
        if isinstance(module, Gate):
            parent, _, child = name.rpartition(".")
            owned = child == "gate" and isinstance(modules[parent], OWNERS)
            gates[parent if owned else name] = module
    return gates
