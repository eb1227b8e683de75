"""Operations that change nothing: identities, and rectifiers of what a rectifier gives."""

from __future__ import annotations

from torch import fx, nn

from bayesprune.graph import Traced
from bayesprune.graph.memory import is_inplace
from bayesprune.ops import operation_of

RELU = operation_of(nn.ReLU())


def drop_redundant(traced: Traced) -> None:
    """Take every ``torch.nn.Identity`` out of the graph, and every ReLU that alone reads what another ReLU gives.

    Such pairs are what residual blocks leave whose branch is off. Values and gradients stay.
    """
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.args else None
        identity = type(traced.module(node)) is nn.Identity
        if isinstance(source, fx.Node) and (identity or _rectifies_again(traced, node, source)):
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)


def _rectifies_again(traced: Traced, node: fx.Node, source: fx.Node) -> bool:
    """Whether two calls are a ReLU and, read by it alone, another; not if a copy would be written over without it.

    Args:
        traced: The network.
        node: The second call.
        source: The first one.
    """
    if not _is_relu(traced, node) or not _is_relu(traced, source) or len(source.users) > 1:
        return False
    return is_inplace(traced, node) or not is_inplace(traced, source)


def _is_relu(traced: Traced, node: fx.Node) -> bool:
    """Whether a call is a ReLU, in place or not.

    Args:
        traced: The network.
        node: The call.
    """
    return operation_of(node, traced.module(node)) is RELU
