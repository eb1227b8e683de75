"""Fewer units: leave some out on trial, let the rest make up for them, and keep what the evidence bound prefers."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from bayesprune.infer import BayesianNet
from bayesprune.infer.differences import paired_differences
from bayesprune.layers import Gate, eval_mode
from bayesprune.methods.svi.settings import Settings
from bayesprune.pruning import kept_gates, shrink
from bayesprune.training.batches import Loader
from bayesprune.training.evidence import batches_of, bound_of_all, cost_of_absence
from bayesprune.training.loop import fit

FIRST = 0.5
"""Which part of the units that are on is left out in the first trial."""
REFIT = {"slab_by": 0.0, "sample_from": 0.3, "settle_from": 0.3}
"""Fields of the schedule of a trial: all of the divergence counts, and gates rest until the damage is repaired."""
SURE = 2.0
"""By how many standard errors a bound has to be better: an error is up to 0.4 nats, a unit of no use costs more."""


def fewer_units(net: BayesianNet, loader: Loader, *, epochs: int, settings: Settings) -> list[tuple[int, float]]:
    """Remove units that the evidence can do without, a part of them at a time.

    A mean field that was fitted with too many units divides the work among them. Each of them is then useful given the
    others, so that no gate goes off, though fewer units would do as well and diverge less from their prior. So the
    units that bring the least for what they cost are left out on trial: half of them, or half as many after each
    trial that fails, down to one. The rest is trained on, and where the evidence bound has not become better beyond its
    error, all is as it was before (backward elimination with refitting). A unit that is left out counts as one with
    θ = 0, so that leaving out those that are off changes nothing; they go first, unless that makes the bound worse.

    Args:
        net: A network with Normal weights that was trained; made smaller in place.
        loader: Its training batches.
        epochs: Length of a trial.
        settings: How it was trained.

    Returns:
        Of each trial how many units were left, and by how many nats the bound was better.
    """
    again = replace(settings, schedule=settings.schedule | REFIT)
    trials: list[tuple[int, float]] = []
    absence, share = cost_of_absence(net), FIRST
    bound = bound_of_all(net, loader, settings.temperature, absence)
    number = 0  # at first those alone that are off already
    while True:
        off = _least_useful(net, loader, number)
        if any(bool(part.any()) for part in off.values()):
            back = net.snapshot()
            smaller, index = shrink(net.net, off, example_input=net.example_input)
            net.replace(smaller, kept_gates(net.net, index))
            fit(net, loader, epochs=epochs, prune=False, settings=again, progress=False)
            found = bound_of_all(net, loader, settings.temperature, absence)
            unsure = SURE * math.hypot(bound.error, found.error)
            trials.append((sum(int((~part).sum()) for part in off.values()), found.nats - bound.nats))
            if found.nats - bound.nats > (unsure if number else -unsure):
                bound = found
            else:
                back()
                if number == 1:
                    return trials
                share = share / 2 if number else share
        elif number:
            return trials
        number = max(1, round(share * sum(int(part.sum()) for part in _on(net).values())))


def _on(net: BayesianNet) -> dict[str, Tensor]:
    """By gate on what a layer writes, whose structures may be left out, which of them are more on than off."""
    thetas = net.by_gate(net.theta.detach().cpu())
    return {name: part > 0.5 for name, part in thetas.items() if not isinstance(net.net.get_submodule(name), Gate)}


def _least_useful(net: BayesianNet, loader: Loader, number: int) -> dict[str, Tensor]:
    """By gate, which units to leave out, bool; at least one unit of each layer stays.

    Args:
        net: The network.
        loader: Its training batches.
        number: How many of those that are on; those that are off go with them.
    """
    worth = net.by_gate(_worth(net, loader).cpu())
    ranked = {name: torch.where(on, worth[name], -torch.inf) for name, on in _on(net).items()}
    if not ranked:
        return {}
    order = torch.cat(list(ranked.values())).sort().values
    wanted = min(int(order.isinf().sum()) + number, len(order))
    limit = order[wanted - 1] if wanted else -torch.inf
    off = {name: values <= limit for name, values in ranked.items()}
    for name, values in ranked.items():
        off[name][int(values.argmax())] = False
    return off


def _worth(net: BayesianNet, loader: Loader) -> Tensor:
    """How many nats of the evidence bound each structure brings, given the others, shape ``(S,)``."""
    found, count = torch.zeros_like(net.theta), 0
    net.refresh()
    with eval_mode(net), torch.no_grad():
        xi = (net.theta.detach() > 0.5).to(net.theta.dtype)[None]
        for x, y in batches_of(net, loader, "fewer_units"):
            found += paired_differences(net, x, y, xi.expand(net.rows(x), -1))[0] * len(y)
            count += len(y)
    return -(found / count + net.price) * net.num_data
