"""The rest of a forward pass, from a gated block on: what to compute again when only that block's gate changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.data.inputs import Inputs
from bayesprune.graph import block_graph
from bayesprune.graph.execute import Execution
from bayesprune.graph.given import given_inputs
from bayesprune.infer.random_state import RandomState
from bayesprune.layers import Gate


class BlockPass:
    """What a pass met at the blocks of one gate: the first one's input, and the random numbers before and after each.

    Args:
        device: Where the pass computes.
        blocks: The blocks, in the order of the forward pass.
    """

    def __init__(self, device: torch.device, blocks: Sequence[nn.Module]):
        self.device, self.blocks = device, blocks
        self.x: Tensor | None = None
        self.version = 0
        self.before: RandomState | None = None
        self.after: dict[nn.Module, RandomState] = {}

    @property
    def intact(self) -> bool:
        """Whether a pass met the first block and nothing has written over its input since."""
        return self.x is not None and self.x._version == self.version

    @contextmanager
    def hooked(self, after: Callable[[nn.Module], None], before: Callable[..., None] | None = None) -> Iterator[None]:
        """Within the context, passes call ``after`` behind every block, and ``before`` in front of the first.

        Args:
            after: Is given the block.
            before: A forward pre-hook.
        """
        handles = [block.register_forward_hook(lambda module, *_: after(module)) for block in self.blocks]
        if before is not None:
            handles.append(self.blocks[0].register_forward_pre_hook(before))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def noting(self) -> AbstractContextManager[None]:
        """Within the context, note what passes meet."""
        return self.hooked(self._leave, self._enter)

    def replaying(self) -> AbstractContextManager[None]:
        """Within the context, what follows a block draws the random numbers that it drew in the pass that was noted."""
        return self.hooked(lambda block: self.after[block].restore())

    def _enter(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.x, self.version, self.before = args[0].detach(), args[0]._version, RandomState.now(self.device)

    def _leave(self, block: nn.Module) -> None:
        self.after[block] = RandomState.now(self.device)


class Resumption:
    """For every gate of a network, the outermost blocks that hold it, and the nodes behind the first of them.

    A block is a `layers.Residual`, a gated layer or a gate that stands alone. A pass can be resumed there if all that
    follows depends on the block's output (and the network's input) alone, as in a chain of residual blocks; the rest
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
        self._rest = Execution(net, block_graph(net if followed is None else followed))
        nodes = self._rest.nodes
        self._place = {node: place for place, node in enumerate(nodes)}
        blocks = {str(node.target): node for node in reversed(nodes) if node.op == "call_module"}
        holders: dict[nn.Module, set[fx.Node]] = {gate: set() for gate in gates}
        for name, module in net.named_modules(remove_duplicate=False):
            if module in holders:
                holders[module] |= _holding(name, blocks)
        self._blocks = [sorted(holders[gate], key=self._place.__getitem__) for gate in gates]
        self._starts = [held[0] if held and self._resumes(held) else None for held in self._blocks]
        last = [max((self._place[node] for node in held), default=-1) for held in self._blocks]
        self.behind: list[list[int] | None] = [
            None if node is None else [slot for slot, at in enumerate(last) if at >= self._place[node]]
            for node in self._starts
        ]

    def _resumes(self, blocks: Sequence[fx.Node]) -> bool:
        """Whether what follows the first of a gate's blocks needs nothing computed before it but its own output."""
        node, called = blocks[0], {block.target for block in blocks}
        place = self._place[node]
        nodes = self._rest.nodes
        calls = [other for other in nodes if other.op == "call_module" and other.target in called]
        early = set(nodes[:place])
        needed = {source for later in nodes[place + 1 :] for source in later.all_input_nodes}
        return (
            len(calls) == len(blocks)
            and len(node.args) == 1
            and not node.kwargs
            and all(source.op in ("placeholder", "get_attr") for source in needed & early)
        )

    @contextmanager
    def watch(self, slots: Sequence[int], device: torch.device) -> Iterator[dict[int, BlockPass]]:
        """Within the context, passes leave what they meet at the blocks of these slots, where they can be resumed.

        Args:
            slots: The slots.
            device: Where the passes compute.
        """
        seen = {slot: BlockPass(device, self._modules(slot)) for slot in slots if self._starts[slot] is not None}
        with ExitStack() as stack:
            for met in seen.values():
                stack.enter_context(met.noting())
            yield seen

    def resume(self, slot: int, x: Inputs, seen: BlockPass) -> Any:
        """The network's output from the first block of ``slot`` on, with the random numbers of the pass that was seen.

        What follows a block of the gate draws the same random numbers whether the block is computed or skipped. A
        branch in it that was left out gets its own within `random_state.replaying`.

        Args:
            slot: A slot whose ``behind`` is not ``None``.
            x: The network's inputs.
            seen: What a pass met at the blocks.
        """
        start = self._starts[slot]
        assert start is not None and seen.x is not None and seen.before is not None
        seen.before.restore()
        with seen.replaying():
            output = seen.blocks[0](seen.x)
            return self._rest.run({**given_inputs(self._rest.nodes, x), start: output}, after=start)

    def _modules(self, slot: int) -> list[nn.Module]:
        return [self.net.get_submodule(str(node.target)) for node in self._blocks[slot]]


def _holding(gate: str, blocks: Mapping[str, fx.Node]) -> set[fx.Node]:
    """The node of the block that is called ``gate`` or holds it; none if there is no such block."""
    while gate:
        if gate in blocks:
            return {blocks[gate]}
        gate = gate.rpartition(".")[0]
    return set()
