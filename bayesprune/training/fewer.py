"""Fewer units: leave some out on trial, let the rest make up for them, and keep what the evidence bound prefers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bayesprune.infer import BayesianNet
from bayesprune.infer.differences import paired_differences
from bayesprune.layers import Gate, eval_mode
from bayesprune.methods.svi.settings import Settings
from bayesprune.pruning import kept_gates, shrink
from bayesprune.training.batches import Loader, dtype_of, read_batch
from bayesprune.training.evidence import evidence_bound
from bayesprune.training.loop import fit

FIRST = 0.5
"""Which part of the units that are on is left out in the first trial."""
REFIT = {"slab_by": 0.0, "sample_from": 0.3, "settle_from": 0.3}
"""Fields of the schedule of a trial: all of the divergence counts, and gates rest until the damage is repaired."""


def fewer_units(net: BayesianNet, loader: Loader, *, epochs: int, settings: Settings) -> list[tuple[int, float]]:
    """Remove units that the evidence can do without, a part of them at a time.

    A mean field that was fitted with too many units divides the work among them. Each of them is then useful given the
    others, so that no gate goes off, though fewer units would do as well and diverge less from their prior. So the
    units that bring the least for what they cost are left out on trial: half of them, or half as many after each
    trial that fails, down to one. The rest is trained on, and where the evidence bound has not become better all is as
    it was before (backward elimination with refitting).

    Args:
        net: A network with Normal weights that was trained; made smaller in place.
        loader: Its training batches.
        epochs: Length of a trial.
        settings: How it was trained.

    Returns:
        Of each trial how many units were left, and by how many nats the bound was better.
    """
    again = replace(settings, schedule=settings.schedule | REFIT)
    bound, share, trials = evidence_bound(net, loader, temperature=settings.temperature), FIRST, []
    while True:
        off, left = _least_useful(net, loader, share)
        if not off:
            return trials
        back = net.snapshot()
        smaller, index = shrink(net.net, off, example_input=net.example_input)
        net.replace(smaller, kept_gates(net.net, index))
        fit(net, loader, epochs=epochs, prune=False, settings=again, progress=False)
        found = evidence_bound(net, loader, temperature=settings.temperature)
        trials.append((left, found.nats - bound.nats))
        if found.nats > bound.nats:
            bound = found
            continue
        back()
        if sum(int(part.sum()) for part in off.values()) == 1:
            return trials
        share /= 2


def _least_useful(net: BayesianNet, loader: Loader, share: float) -> tuple[dict[str, Tensor], int]:
    """By gate, which units to leave out, and how many are left; at least one unit of each layer stays.

    Args:
        net: The network.
        loader: Its training batches.
        share: How many of those whose gates are more on than off, at least one; those that are off go with them.
    """
    thetas, worth = net.by_gate(net.theta.detach().cpu()), net.by_gate(_worth(net, loader).cpu())
    names = [name for name in thetas if not isinstance(net.net.get_submodule(name), Gate)]
    on = {name: thetas[name] > 0.5 for name in names}
    number = max(1, round(share * sum(int(part.sum()) for part in on.values())))
    ranked = torch.cat([torch.where(on[name], worth[name], -torch.inf) for name in names]) if names else torch.zeros(0)
    idle = int(ranked.isinf().sum())
    limit = ranked.sort().values[min(idle + number, len(ranked)) - 1] if len(ranked) else torch.inf
    off = {name: torch.where(on[name], worth[name] <= limit, True) for name in names}
    for name, part in off.items():
        part[int(torch.where(on[name], worth[name], -torch.inf).argmax())] = False
    left = sum(int((~part).sum()) for part in off.values())
    return ({} if left == len(ranked) else off), left


def _worth(net: BayesianNet, loader: Loader) -> Tensor:
    """How many nats of the evidence bound each structure brings, given the others, shape ``(S,)``."""
    found, count = torch.zeros_like(net.theta), 0
    net.refresh()
    with eval_mode(net), torch.no_grad():
        xi = (net.theta.detach() > 0.5).to(net.theta.dtype)[None]
        for number, batch in enumerate(loader):
            x, y = read_batch(batch, dtype_of(net), f"fewer_units: batch {number}")
            found += paired_differences(net, x, y, xi.expand(net.rows(x), -1))[0] * len(y)
            count += len(y)
    return -(found / count + net.price) * net.num_data
