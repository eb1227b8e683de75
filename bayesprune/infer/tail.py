"""The rest of a forward pass, from a gated block on: what to compute again when only that block's gate changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.data.inputs import Inputs
from bayesprune.graph import block_graph
from bayesprune.graph.given import given_inputs
from bayesprune.infer.random_state import RandomState
from bayesprune.layers import Gate


@dataclass
class Seen:
    """What a pass met at a block: its input, and the random numbers before and after it."""

    device: torch.device
    x: Tensor | None = None
    version: int = 0
    before: RandomState | None = None
    after: RandomState | None = None

    def enter(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Hook before the block's forward."""
        self.x, self.version, self.before = args[0].detach(), args[0]._version, RandomState.now(self.device)

    @property
    def intact(self) -> bool:
        """Whether a pass met the block and nothing has written over its input since."""
        return self.x is not None and self.x._version == self.version

    def leave(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Hook after it."""
        self.after = RandomState.now(self.device)


class Tails:
    """For every gate of a network, the outermost block that holds it, and the nodes behind that block.

    A block is a `layers.Residual`, a gated layer or a gate that stands alone. A pass can be resumed there if all that
    follows depends on the block's output (and the network's input) alone, as in a chain of residual blocks; the tail
    then takes the block's input and gives the network's output.

    Args:
        net: Gated network, in the mode (training or not) in which passes are to be resumed.
        gates: The gates, in the order of their slots.
        followed: Modules of the same names whose forward pass is followed instead.

    Attributes:
        behind: By slot, the slots of gates in the block or after it; ``None`` where a pass cannot be resumed.
    """

    def __init__(self, net: nn.Module, gates: Sequence[Gate], followed: nn.Module | None = None):
        self.net = net
        graph = block_graph(net if followed is None else followed)
        self.nodes = list(graph.nodes)
        self._interpreter = fx.Interpreter(net, graph=graph)
        holders = {name: node for node in self.nodes if node.op == "call_module" for name in [str(node.target)]}
        names = {module: name for name, module in net.named_modules()}
        place = {node: i for i, node in enumerate(self.nodes)}
        held = [_holder(names[gate], holders) for gate in gates]
        self._starts = [node if node is not None and self._resumes(node) else None for node in held]
        places = [-1 if node is None else place[node] for node in held]
        self.behind: list[list[int] | None] = [
            None if node is None else [slot for slot, at in enumerate(places) if at >= place[node]]
            for node in self._starts
        ]

    def _resumes(self, node: fx.Node) -> bool:
        """Whether what follows needs nothing computed before ``node`` but its own output."""
        calls = [other for other in self.nodes if other.op == "call_module" and other.target == node.target]
        index = self.nodes.index(node)
        early = set(self.nodes[:index])
        needed = {source for later in self.nodes[index + 1 :] for source in later.all_input_nodes}
        return (
            len(calls) == 1
            and len(node.args) == 1
            and not node.kwargs
            and all(source.op in ("placeholder", "get_attr") for source in needed & early)
        )

    @contextmanager
    def watch(self, slots: Sequence[int], device: torch.device) -> Iterator[dict[int, Seen]]:
        """Within the context, passes leave what they meet at the blocks of these slots, where they can be resumed."""
        seen = {slot: Seen(device) for slot in slots if self._starts[slot] is not None}
        blocks = {slot: self.net.get_submodule(str(self._starts[slot].target)) for slot in seen}  # type: ignore[union-attr]
        handles = [blocks[slot].register_forward_pre_hook(it.enter) for slot, it in seen.items()]
        handles += [blocks[slot].register_forward_hook(it.leave) for slot, it in seen.items()]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def resume(self, slot: int, x: Inputs, seen: Seen) -> Any:
        """The network's output from the block of ``slot`` on, with the random numbers of the pass that was seen.

        What follows the block draws the same random numbers whether the block is computed or skipped. A branch in it
        that was left out gets its own within `random_state.replaying`.

        Args:
            slot: A slot whose ``behind`` is not ``None``.
            x: The network's inputs.
            seen: What a pass met at the block.
        """
        start = self._starts[slot]
        assert start is not None and seen.x is not None and seen.before is not None and seen.after is not None
        seen.before.restore()
        output = self.net.get_submodule(str(start.target))(seen.x)
        seen.after.restore()
        early = self.nodes[: self.nodes.index(start)]
        known = {node: None for node in early if node.op not in ("placeholder", "get_attr")}
        known |= given_inputs(self.nodes, x)
        return self._interpreter.run(initial_env={**known, start: output})


def _holder(gate: str, holders: dict[str, fx.Node]) -> fx.Node | None:
    """The node of the module that is called ``gate`` or holds it."""
    while gate:
        if gate in holders:
            return holders[gate]
        gate = gate.rpartition(".")[0]
    return None
