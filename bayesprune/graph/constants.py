"""Whole numbers that a network holds, such as an index of positions: they are the same in every pass."""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor, fx, nn

from bayesprune.ops import operation_of
from bayesprune.ops.call import compute


@torch.no_grad()
def constants_of(net: nn.Module, graph: fx.Graph) -> dict[fx.Node, Tensor]:
    """Tensors of whole numbers, and single numbers, that are used directly, and what moving makes of them alone.

    Args:
        net: The network.
        graph: Its forward pass.
    """
    found: dict[fx.Node, Tensor] = {}
    for node in graph.nodes:
        read = node.all_input_nodes
        if node.op == "get_attr":
            value = attrgetter(str(node.target))(net)
        elif node.op != "call_module" and read and all(i in found for i in read) and operation_of(node).moves:
            value = compute(node, {}, found.__getitem__)
        else:
            continue
        if not isinstance(value, Tensor) or isinstance(value, nn.Parameter) or value.is_complex():
            continue
        if not value.is_floating_point() or value.dim() == 0:
            found[node] = value.cpu()
    return found
