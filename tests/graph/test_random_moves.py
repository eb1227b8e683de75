"""Random chains of operations that move entries: exact or refused, and followed as they go."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayesprune.errors import GateError
from bayesprune.graph import Analysis, check_gates, trace
from tests.graph.moved import C, Moved, picked
from tests.graph.test_axes import some_off, verify


def random_move(rng: random.Random, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """One operation that tensors of this shape go through, with any number of examples; its sizes may be literal."""
    rank = len(shape)
    a = rng.randrange(1, rank)
    k = rng.choice([k for k in range(1, shape[a] + 1) if shape[a] % k == 0])
    moves: list[Callable[[Tensor], Tensor]] = [
        lambda h: h.flip(a), lambda h: h.unflatten(a, (k, -1)), lambda h: h.unflatten(a, (-1, k)),
        lambda h: h.chunk(k, a)[-1], lambda h: torch.cat(picked(h.chunk(k, a), *range(k)[::-1]), a),
        lambda h: h.unsqueeze(a),
        lambda h: h.repeat_interleave(2, a), lambda h: h.roll(1, a), lambda h: torch.cat([h, -h], a),
        lambda h: h.narrow(a, 0, h.shape[a] // k), lambda h: torch.stack([h, h], a), lambda h: h.unfold(a, 1, 1),
        lambda h: h.reshape(h.shape[0], *shape[:0:-1]), lambda h: h.movedim(0, a).tanh().movedim(a, 0),
    ]  # fmt: skip
    if rank > 2:
        b = rng.choice([dim for dim in range(1, rank) if dim != a])
        moves += [
            lambda h: h.transpose(a, b), lambda h: h.flatten(1, 2), lambda h: h.flatten(-2), lambda h: h.select(a, 0),
            lambda h: h.transpose(a, b).reshape(h.shape),
        ]  # fmt: skip
    return rng.choice(moves)


def random_chain(seed: int) -> tuple[Moved, Tensor]:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    h, moves = torch.zeros(1, C, 2, 3), []
    for _ in range(rng.randint(1, 5)):
        if h.dim() < 7 and h.numel() < 500:
            moves.append(random_move(rng, h.shape))
            h = moves[-1](h)

    def chain(h: Tensor) -> Tensor:
        for move in moves:
            h = move(h)
        return h.flatten(1)

    return Moved(chain, nn.Linear(h.numel(), 2)).double(), torch.randn(3, 2, 2, 3, dtype=torch.float64)


def verify_flows(net: Moved, x: Tensor) -> None:
    """An entry of the convolution reaches those entries before the linear layer that change when it does."""
    analysis = Analysis(trace(net, x), {})
    reached = {node: torch.eye(C, dtype=torch.bool) for node in analysis.steps if str(node.target) == "first"}
    for node, step in analysis.steps.items():
        if step.out is not None and step.flows:
            reached[node] = torch.zeros(len(step.out), C, dtype=torch.bool)
            for flow in step.flows:
                reached[node].index_put_((flow.dst,), reached[flow.node][flow.src], accumulate=True)
    node = next(node for node in analysis.steps if str(node.target) == "out").all_input_nodes[0]
    features = analysis.known[node]
    assert features is not None
    tied = any(step.ties for step in analysis.steps.values())  # what goes together is followed as one
    h = torch.randn(2, C, 2, 3, dtype=torch.float64)
    for entry in range(C):
        other = h.clone()
        other[:, entry] += 1.0
        changed = (net.function(h) != net.function(other)).any(0)
        found = reached[node][:, entry][features.entries(len(changed), "out")]
        assert not bool((changed & ~found).any())
        assert tied or torch.equal(changed, found)


@pytest.mark.parametrize(
    "seeds", [range(30), pytest.param(range(30, 600), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_random_chains_are_exact_or_refused(seeds: range) -> None:
    exact = 0
    for seed in seeds:
        net, x = random_chain(seed)
        try:
            check_gates(net, example_input=x)
        except GateError:
            continue
        exact += 1
        verify_flows(net, x)
        some_off(net, seed)
        try:
            verify(net, x, x)
        except GateError as error:  # all that is read is off
            assert "left without any input" in str(error)
    assert exact > len(seeds) // 4
