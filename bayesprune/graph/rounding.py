"""Widths that are multiples of a number: of the structures that could go, some stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from bayesprune.graph.analysis import Analysis
from bayesprune.layers import Gate
from bayesprune.ops import operation_of
from bayesprune.ops.ties import joined


def round_up(plan: Analysis, multiple: int, theta: Mapping[Gate, Tensor]) -> None:
    """Let more entries stay, until every layer has a multiple of inputs and outputs, or all that it had.

    They stay as zeros: their gates are off. Those of the largest θ come first.

    Args:
        plan: What stays as it is; edited in place.
        multiple: What widths are to be multiples of.
        theta: By gate, θ of its structures.
    """
    loose = [
        (plan.known[flow.node].ids[flow.src], step.out.ids[flow.dst])  # type: ignore[union-attr]
        for step in plan.steps.values()
        if step.selects and step.out is not None
        for flow in step.flows
    ]
    one = joined(plan.num_ids, [*plan.ties, *loose])  # what a gate multiplies stays with what it is before
    score = torch.zeros(plan.num_ids)
    for gate, ids in _ids_of_gates(plan):
        if gate in theta:
            score.scatter_reduce_(0, one[ids], theta[gate].float(), "amax")
    widths = sorted(_widths(plan), key=len)  # of what is cut in two, the halves first
    grown = True
    while grown:
        grown = False
        for ids in widths:
            more = _wanted(plan.stay(ids), one[ids], multiple, score)
            if len(more):
                plan.hold(torch.isin(one, more).nonzero()[:, 0])
                grown = True
        plan.complete()


def _wanted(stay: Tensor, ids: Tensor, multiple: int, score: Tensor) -> Tensor:
    """The ids that are to stay besides, none if there is a multiple already.

    Args:
        stay: Which of the entries of a layer's inputs or outputs stay, bool.
        ids: Those of all of them.
        multiple: What the number of those that stay is to be a multiple of.
        score: By id, which are to stay first.
    """
    count = int(stay.sum())
    if count % multiple == 0:
        return ids[:0]
    found, copies = ids[~stay].unique(return_counts=True)
    order = score[found].argsort(descending=True, stable=True)
    enough = ((count + copies[order].cumsum(0)) % multiple == 0).nonzero()[:1, 0]
    return found[order][: int(enough) + 1 if len(enough) else len(order)]


def _ids_of_gates(plan: Analysis) -> Iterator[tuple[Gate, Tensor]]:
    """The ids of the structures of every gate that the plan follows."""
    yield from plan.shared.items()
    for gate, uses in plan.traced.uses.items():
        out = plan.steps[uses[0]].out
        if gate not in plan.shared and out is not None and len(out) == gate.size:
            yield gate, out.ids


def _widths(plan: Analysis) -> Iterator[Tensor]:
    """The ids of the inputs, and of the outputs, of every call of a layer."""
    for node, step in plan.steps.items():
        module = plan.traced.module(node)
        parts = operation_of(module).parts if module is not None and not isinstance(module, Gate) else None
        if parts is None or str(node.target) in plan.traced.fixed:
            continue
        for attribute, role in parts(module).sizes.items():
            features = plan.known[node if role == "out" else node.all_input_nodes[0]]
            if role in ("in", "out") and features is not None and (role == "out" or step.reads):
                yield features.ids[features.entries(getattr(module, attribute), node.name)]
