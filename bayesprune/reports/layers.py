"""The gates of a run as a page shows them: what each was, what it became, and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.reports.picture import label
from bayesprune.training.history import History
from bayesprune.types import Removal

MOST, FRAMES = 60_000, 101
"""How many θ of a run a page holds at most, and of how many moments."""
DOUBT = 1.645
"""Beyond how many standard errors the sign of a net cost is called clear."""
BRANCHES, INPUTS, STRUCTURES = "branches", "inputs", "structures"


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """A layer in a table: counts of its structures, and medians, NaN where there is nothing.

    Attributes:
        title: What it is called.
        start: At the start.
        left: With θ > ½ at the end.
        removed: Removed while training.
        measured: Those that went, and whose net cost was measured.
        clear: Of these, those whose net cost is above 0 by `DOUBT` standard errors.
        price: Median price, nats per example.
        worth_gone: Median of what those that went are worth to the data.
        worth_left: The same of those that stay.
    """

    title: str
    start: int
    left: int
    removed: int
    measured: int
    clear: int
    price: float
    worth_gone: float
    worth_left: float


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The gates of one module, or all gates on whole branches together; n of them.

    Attributes:
        title: What it is called.
        kind: ``inputs``, ``branches`` or ``structures``.
        names: What each gate is called, n texts.
        theta: θ at the start and after every epoch, shape ``(epochs + 1, n)``.
        evidence: Price, net cost and standard error, shape ``(n, 3)``, NaN where nothing is known.
        saved: Parameters and multiply-adds that go with each alone, shape ``(n, 2)``; ``None`` where that is not known.
        removals: By place, what the run wrote down of those that it removed.
        shape: That of an image that the inputs make, ``(C, H, W)``.
    """

    title: str
    kind: str
    names: Sequence[str]
    theta: Tensor
    evidence: Tensor
    saved: Tensor | None
    removals: Mapping[int, Removal]
    shape: tuple[int, ...] | None = None

    @property
    def left(self) -> Tensor:
        """Which are on, bool, shape ``(n,)``."""
        return self.theta[-1] > 0.5

    def summary(self) -> LayerRow:
        """The row of the layer in a table."""
        price, net_cost, error = self.evidence.unbind(1)
        gone, worth = ~self.left, price - net_cost
        return LayerRow(
            title=self.title,
            start=len(self.names),
            left=int(self.left.sum()),
            removed=len(self.removals),
            clear=int((gone & (net_cost > DOUBT * error)).sum()),
            measured=int((gone & error.isfinite()).sum()),
            price=_median(price),
            worth_gone=_median(worth[gone]),
            worth_left=_median(worth[self.left]),
        )

    def data(self, frames: Sequence[int], digits: int) -> dict[str, Any]:
        """What the script of the page is given: once what all structures share, and no names that are numbers.

        Args:
            frames: Of which moments.
            digits: Of how many digits numbers are.
        """
        saved, numbered = self.saved, list(self.names) == [str(k) for k in range(len(self.names))]
        alike = saved is not None and bool((saved == saved[:1]).all())
        return {
            "title": self.title,
            "kind": self.kind,
            "names": None if numbered else list(self.names),
            "shape": self.shape,
            "theta": _rows(self.theta[list(frames)], digits),
            "evidence": _rows(self.evidence, digits),
            "saved": None if saved is None else _rows(saved[:1] if alike else saved, 5),
            "removals": {place: _removal(gone, digits) for place, gone in self.removals.items()},
        }


def _removal(gone: Removal, digits: int) -> list[float | int | None]:
    """Step and weight norm of a removal, and 1 behind them if a budget forced it."""
    return [gone.step, plain(gone.weight_norm, digits), *([1] if gone.forced else [])]


def frames(history: History) -> list[int]:
    """The moments whose θ a page holds, by number of the epoch, first and last among them."""
    paths = list(history.thetas.values())
    count, gates = len(paths[0]) if paths else 1, sum(len(path[0]) for path in paths)
    shown = max(2, min(count, FRAMES, MOST // max(1, gates)))
    return sorted({round(k * (count - 1) / (shown - 1)) for k in range(shown)})


def layers_of(
    history: History,
    saved: Mapping[str, Tensor],
    inputs: tuple[str, tuple[int, ...]] | None,
    names: Sequence[str] | None,
) -> list[Layer]:
    """The layers of a run, gates on branches last.

    Args:
        history: Its record.
        saved: By gate name, parameters and multiply-adds that go with each structure alone, shape ``(gates, 2)``.
        inputs: Name of the gate on the inputs, and the shape of one example.
        names: What the inputs are called.
    """
    removals: dict[str, dict[int, Removal]] = {name: {} for name in history.thetas}
    for removal in history.removals:
        removals[removal.gate][removal.index] = removal
    found, branches = [], []
    for name, path in history.thetas.items():
        size, on_inputs = len(path[0]), inputs is not None and inputs[0] == name
        if size == 1 and not on_inputs:
            branches.append(name)
            continue
        shape = inputs[1] if on_inputs and inputs is not None and len(inputs[1]) == 3 else None
        column = "x" if on_inputs and shape is None else ""
        found.append(
            Layer(
                title="inputs" if on_inputs else label(name),
                kind=INPUTS if on_inputs else STRUCTURES,
                names=names if on_inputs and names is not None else [f"{column}{k}" for k in range(size)],
                theta=torch.stack(list(path)),
                evidence=_evidence(history, name, size),
                saved=saved.get(name),
                removals=removals[name],
                shape=shape,
            )
        )
    return [*found, _branches(history, saved, branches, removals)] if branches else found


def _branches(
    history: History, saved: Mapping[str, Tensor], names: Sequence[str], removals: Mapping[str, Mapping[int, Removal]]
) -> Layer:
    """All gates on branches as one layer."""
    return Layer(
        title="branches",
        kind=BRANCHES,
        names=[label(name) for name in names],
        theta=torch.cat([torch.stack(list(history.thetas[name])) for name in names], 1),
        evidence=torch.cat([_evidence(history, name, 1) for name in names]),
        saved=torch.cat([saved[name] for name in names]) if set(names) <= set(saved) else None,
        removals={place: removals[name][0] for place, name in enumerate(names) if removals[name]},
    )


def _evidence(history: History, name: str, size: int) -> Tensor:
    return history.evidence.get(name, torch.full((size, 3), torch.nan))


def _median(values: Tensor) -> float:
    known = values[values.isfinite()]
    return float(known.median()) if len(known) else math.nan


def plain(value: float, digits: int = 5) -> float | int | None:
    """A number; ``None`` if it is not finite.

    Args:
        value: The number.
        digits: Of how many digits it is.
    """
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) else float(f"{value:.{digits}g}")


def _rows(values: Tensor, digits: int) -> list[list[float | int | None]]:
    return [[plain(value, digits) for value in row] for row in values.double().tolist()]
