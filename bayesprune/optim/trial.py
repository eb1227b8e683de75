"""What an optimiser does to weights, by trial: how it takes weight decay, and whether its state can follow a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.errors import ConfigError
from bayesprune.optim.remap import remap_optimizer
from bayesprune.types import IndexMap

SIZES = 4, 3, 2, 2, 2
"""Shape of the trial's weights, as far as they have dimensions."""
KEPT = 0, 2
"""Which entries of the first dimension stay when the trial's weights are cut."""
RATE, DECAY = 0.01, 0.1
STEPS = 8
"""How many steps a trial takes: some optimisers (RAdam) begin as plain gradient descent, which has no other decay."""
CLOSE = 1e-3
"""How far two paths of weights may differ that ought to be one, relative to their length."""

Build = Callable[..., torch.optim.Optimizer]


def check_optimizer(build: Build, dims: Iterable[int], device: torch.device, *, decays: bool, shrinks: bool) -> None:
    """Refuse an optimiser with which weights would not be trained as the model says, or whose state cannot be cut.

    It is tried on a few small weights, so what counts is what it does, not what it is called. Two laws must hold.
    Weight decay λ/N is the gradient of the prior, so a step with it must be the step without it on a gradient with λ/N
    times the weights added (*coupled*). And steps must commute with the removal of entries: what stays must move as if
    nothing had been removed.

    Args:
        build: Constructor, called with parameters, ``lr`` and ``weight_decay``.
        dims: How many dimensions the weights have that it is to train.
        device: Where they are.
        decays: Whether there is a weight decay, so that the first law has to hold.
        shrinks: Whether weights may be cut, so that the second law has to hold.

    Raises:
        ConfigError: for an optimiser that cannot be built or take a step with these arguments, or breaks a law.
    """
    for dim in sorted(set(dims)):
        start = _wave(dim, 0.0, device) + 2.0
        try:
            with torch.enable_grad():
                coupled = not decays or _same(start, *(_decayed(build, start, within) for within in (True, False)))
                commutes = not shrinks or dim == 0 or _commutes(build, start)
        except ConfigError:
            raise
        except Exception as error:  # whatever other people's optimisers raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"fit: Settings.optimizer {name_of(build)} failed in a trial on a weight of shape {tuple(start.shape)} "
                f"({reason}); it is called with parameters, lr and weight_decay, and its step without arguments, as "
                "Adam and SGD are"
            ) from error
        if not coupled:
            raise ConfigError(
                f"fit: Settings.optimizer {name_of(build)} decouples weight decay from the gradient (or ignores it), "
                "but the slab's density is part of the loss; use Adam or SGD, or a BayesianNet with weight_precision=0"
            )
        if not commutes:
            raise ConfigError(
                f"fit: Settings.optimizer {name_of(build)} does not treat each entry of a weight by itself, so its "
                "state cannot follow the network when that is cut; use Adam or SGD, or fit with prune=False"
            )


def construct(
    build: Build, groups: Sequence[Tensor] | Sequence[dict[str, Any]], **arguments: Any
) -> torch.optim.Optimizer:
    """The optimiser of these parameters, or groups of them.

    Args:
        build: Constructor of the optimiser.
        groups: Parameters, or groups of them.
        arguments: What the constructor is called with besides.

    Raises:
        ConfigError: if it is one of others.
    """
    optimizer = build(groups, **arguments)
    given = [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if {id(p) for p in held} != {id(p) for p in given}:
        raise ConfigError(
            f"fit: Settings.optimizer {name_of(build)} holds {len(held)} parameters that are not the {len(given)} it "
            "was called with; let it train the parameters that it is given, all of them"
        )
    return optimizer


def name_of(build: Build) -> str:
    """What a constructor is called, in messages."""
    return str(getattr(getattr(build, "func", build), "__name__", type(build).__name__))  # of a partial: its function's


def _wave(dim: int, phase: float, device: torch.device) -> Tensor:
    """Some numbers between -1 and 1 that are not 0, which are no random ones."""
    shape = SIZES[:dim] + (1,) * (dim - len(SIZES))
    dtype = torch.float32 if device.type == "mps" else torch.float64
    steps = torch.arange(torch.Size(shape).numel(), dtype=dtype, device=device)
    return torch.sin(1.7 * steps + 0.5 + phase).reshape(shape)


def _decayed(build: Build, start: Tensor, within: bool) -> Tensor:
    """Where some steps lead, weight decay being left to the optimiser or added to the gradient by hand."""
    weight = nn.Parameter(start.clone())
    optimizer = construct(build, [weight], lr=RATE, weight_decay=DECAY if within else 0.0)
    for step in range(STEPS):
        weight.grad = _wave(start.dim(), step, start.device)
        if not within:
            weight.grad.add_(weight.detach(), alpha=DECAY)
        optimizer.step()
    return weight.detach()


def _commutes(build: Build, start: Tensor) -> bool:
    """Whether what is left of a weight moves after a cut as it would have moved without."""
    whole = _cut_at(build, start, None)
    try:
        cut = _cut_at(build, start, STEPS - 2)
    except RuntimeError:  # a state of another shape
        return False
    kept = list(KEPT)
    return _same(start[kept], whole[kept], cut)


def _cut_at(build: Build, start: Tensor, when: int | None) -> Tensor:
    """Where some steps lead, with a cut before one of them."""
    kept = torch.tensor(KEPT, device=start.device)
    weight = nn.Parameter(start.clone())
    optimizer = construct(build, [weight], lr=RATE, weight_decay=DECAY)
    for step in range(STEPS):
        gradient = _wave(start.dim(), step, start.device)
        if step == when:
            smaller = nn.Parameter(weight.detach()[kept])
            index = IndexMap({"weight": (kept, *(None,) * (start.dim() - 1))})
            remap_optimizer(optimizer, {"weight": weight}, {"weight": smaller}, index)
            weight = smaller
        weight.grad = gradient if len(weight) == len(start) else gradient[kept]
        optimizer.step()
    return weight.detach()


def _same(start: Tensor, one: Tensor, other: Tensor) -> bool:
    """Whether two paths from ``start`` end in the same place."""
    return float((one - other).abs().max()) <= CLOSE * float((one - start).abs().max())
