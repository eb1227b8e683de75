"""What of a forward pass goes by the mode of its network, and what is told for good: a mode, or to have no gradient."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bayesprune.graph import Traced
from bayesprune.graph.shapes import DTYPE

DROPOUTS = {
    F.dropout: nn.Dropout,
    torch.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
}
"""Functions that a graph would hold in one mode for good, and the modules that follow the network's."""
TOLD: dict[Any, tuple[str, int, bool]] = {
    **dict.fromkeys(DROPOUTS, ("training", 2, True)),
    torch.dropout: ("train", 2, True),
    F.batch_norm: ("training", 5, False),
}
"""Functions that are told a mode: under what name, at what place, and which they take if they are not told one."""
UNSEEN = "without gradient, over what has one"
"""What is said of writing that gradients pass by, see `passes_gradient_by`."""
FOLLOWS, ALONE = "follows", "alone"
"""Names in a node's ``meta``, for whether its call follows the mode, and whether it is made without gradient."""


class Mode(int):
    """False, as what ``training`` of modules is while they are followed; it notes whether Python decided by it."""

    asked = False

    def __bool__(self) -> bool:
        self.asked = True
        return False


def plain_mode(value: Any) -> Any:
    """*False* instead of a `Mode`."""
    return False if isinstance(value, Mode) else value


class Modes:
    """The mode of a network while it is followed, which is that of all of its modules.

    Args:
        kept: Modules that are in eval mode for good.
    """

    def __init__(self, kept: Collection[nn.Module]):
        self.kept, self.mode = kept, Mode()

    def begin(self, net: nn.Module) -> None:
        """Let all modules of a network in eval mode have the mode that is followed."""
        self._set(net, self.mode)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """A context in which a module is followed."""
        before, self.mode.asked = self.mode.asked, False
        try:
            yield
        finally:
            self.mode.asked = before

    @contextmanager
    def plain(self, module: nn.Module) -> Iterator[None]:
        """A context in which a module computes, in eval mode."""
        self._set(module, False)
        try:
            yield
        finally:
            self._set(module, self.mode)

    def _set(self, net: nn.Module, mode: Any) -> None:
        """Set the mode of modules, unless they keep theirs.

        Args:
            net: The module that they are parts of.
            mode: The mode.
        """
        for module in net.modules():
            if module not in self.kept:
                module.training = mode

    def followed_by(self, target: Any, args: Any, kwargs: Any) -> bool:
        """Whether a call goes by the mode of the network: it is told that, or what Python may have decided by it.

        Args:
            target: What is called.
            args: What it is given by place.
            kwargs: What it is given by name.

        Raises:
            TraceError: for a call that goes by it in a way that a graph would not keep.
        """
        if target not in TOLD:
            if any(isinstance(value, Mode) for value in (*args, *kwargs.values())):
                name = getattr(target, "__name__", target)
                raise fx.proxy.TraceError(f"{name} goes by the mode of the network, which is not kept")
            return False
        name, place, _ = TOLD[target]
        given = args[place] if len(args) > place else kwargs.get(name)
        return isinstance(given, Mode) or self.mode.asked


def note_modes(node: fx.Node, follows: bool) -> None:
    """Note of a call what the graph would not say.

    Args:
        node: The call.
        follows: Whether it follows the mode of its module.
    """
    node.meta[FOLLOWS], node.meta[ALONE] = follows, not torch.is_grad_enabled()


def passes_gradient_by(target: fx.Node, alone: bool, dtype: torch.dtype) -> bool:
    """Whether what is written over goes on having the gradient of what it was, as torch does not see it.

    Args:
        target: What gave it.
        alone: Whether it is written over where there is no gradient.
        dtype: Its kind of numbers.
    """
    has_gradient = target.op != "placeholder" and not target.meta.get(ALONE) and dtype.is_floating_point
    return alone and has_gradient


def told_mode(node: fx.Node) -> bool:
    """The mode that a call of `TOLD` is told."""
    name, place, otherwise = TOLD[node.target]
    return bool(node.args[place] if len(node.args) > place else node.kwargs.get(name, otherwise))


def kept_in_eval(net: nn.Module) -> set[nn.Module]:
    """Modules that stay in eval mode when their network is put into training mode, as a ``train`` of its own may do."""
    if all(type(module).train is nn.Module.train for module in net.modules()):
        return set()
    trained = {p: p.requires_grad for p in net.parameters()}
    kept = {module for module in net.train().modules() if not module.training}
    for p, flag in trained.items():
        p.requires_grad_(flag)
    net.eval()
    return kept


def keep_from_gradients(traced: Traced) -> None:
    """Let what was computed without gradient have none in the graph either.

    Args:
        traced: The network with known shapes, changed in place.
    """
    trained: set[fx.Node] = set()
    for node in list(traced.graph.nodes):
        module = traced.module(node)
        own = node.op == "placeholder" or (module is not None and any(True for _ in module.parameters()))
        own = own or (node.op == "get_attr" and isinstance(attrgetter(str(node.target))(traced.net), nn.Parameter))
        real = node.meta.get(DTYPE, torch.float32).is_floating_point
        if not real or (not own and trained.isdisjoint(node.all_input_nodes)):
            continue
        trained.add(node)
        outside = [user for user in node.users if not user.meta.get(ALONE)]
        if node.meta.get(ALONE) and node.op not in ("placeholder", "get_attr") and node in traced.shapes and outside:
            with traced.graph.inserting_after(node):
                call = traced.graph.call_method("detach", (node,))
            node.replace_all_uses_with(call, lambda user, outside=outside: user in outside)  # type: ignore[misc]
            traced.shapes[call] = traced.shapes[node]
