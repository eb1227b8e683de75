"""What happened during a run: one row an epoch, the gates' path, and every removal with its evidence."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesprune.atomic import write_atomically
from bayesprune.markup import html_table
from bayesprune.schema import dataclass_record, items, number, record, table, tensor
from bayesprune.types import Removal

SHOWN = 12
"""Epochs of a history that a notebook shows."""


@dataclass(frozen=True)
class EpochRow:
    """One epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        phase: At its end, of inference ``warm-up``, ``sample``, ``settle`` or ``fine-tune``; of other methods what
            their `Phase` is called.
        loss: Mean of the data term plus Σ ρ_s θ_s plus λ/(2N) ‖M‖², nats per example.
        nll: Mean negative log-likelihood of the training batches as they came, nats per example.
        val_nll: The same on the validation loader in eval mode; NaN without one.
        val_accuracy: Accuracy there, 0 to 1; NaN without one, or where targets are not classes.
        gates_left: Gates with θ > ½, those that `compact` keeps. Gates may be off that are not removed yet.
        gates_converged: Fraction of all starting gates that are removed or have θ within 0.01 of 0 or 1.
        params: Parameters left.
        macs: Multiply-adds of one example left, all remaining gates on.
        seconds: Duration.
        nu: ν, what the whole cost is worth, times one half, nats per example: that of `CostPrice` or a budget's
            multiplier; NaN with constant log γ.
        expected: Expected cost relative to that at the start: G of `CostPrice`, or in a budget's measure, and from the
            end of settling on that of the network that `compact` gives; NaN with constant log γ.
        masked: Weights that masks keep at 0; they count among ``params``.

    Examples:
        >>> row = EpochRow(1, "train", 0.5, 0.4, 0.6, 0.9, 7, 1.0, 100, 200, 1.5)
        >>> row.nu
        nan
    """

    epoch: int
    phase: str
    loss: float
    nll: float
    val_nll: float
    val_accuracy: float
    gates_left: int
    gates_converged: float
    params: int
    macs: int
    seconds: float
    nu: float = math.nan
    expected: float = math.nan
    masked: int = 0


@dataclass(repr=False)
class History:
    """The record of a run.

    Attributes:
        rows: One row an epoch.
        removals: Every removed structure, in order.
        thetas: By gate name, one vector an epoch with θ of all *starting* gates (0 where removed), the first at the
            start.
        branches_computed: Branch evaluations of all passes of training (the extra ones of estimators included),
            relative to the steps taken times the branches at the start; NaN for a network without branches.
        charged: What the run has taken to compute, multiply-adds: an example of a training step counts three forward
            passes of the network as it was then, in which a branch counts with its θ, as often as it is on; one that a
            method had looked at besides counts one, and what a solver of its own took is added. Of variational
            inference the passes of steps alone are in it.
        evidence: By gate name, of all starting gates what was last known, shape ``(gates, 3)``: price, net cost and its
            standard error, see `Evidence`; NaN where nothing is. Of a removed one it is what it was removed by.

    Examples:
        >>> History()
        History(no epoch yet)
    """

    rows: list[EpochRow] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    thetas: dict[str, list[Tensor]] = field(default_factory=dict)
    branches_computed: float = math.nan
    charged: float = 0.0
    evidence: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Epochs, the last loss, the accuracy if there is one, what is left, and what is masked, in one line."""
        if not self.rows:
            return "History(no epoch yet)"
        last = self.rows[-1]
        epochs = "1 epoch" if last.epoch == 1 else f"{last.epoch} epochs"
        gates = sum(len(path[0]) for path in self.thetas.values()) or last.gates_left
        accuracy = "" if math.isnan(last.val_accuracy) else f"accuracy {100 * last.val_accuracy:.2f} %, "
        masked = f", of which masks keep {last.masked:,} at 0" if last.masked else ""
        return (
            f"History({epochs}, loss {last.loss:.4f}, {accuracy}gates left {last.gates_left:,} of {gates:,}, "
            f"params {last.params:,}{masked})"
        )

    def _repr_html_(self) -> str:
        """For notebooks: the line of `repr`, and up to `SHOWN` epochs, the last one among them."""
        header = ("epoch", "phase", "loss", "accuracy", "gates left", "parameters", "multiply-adds")
        step = math.ceil(len(self.rows) / SHOWN) or 1
        return html_table(repr(self), header, map(_cells, self.rows[::-step][::-1]))

    def write_csv(self, path: Path) -> None:
        """Write the rows as CSV, atomically."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [f.name for f in fields(EpochRow)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        write_atomically(path, text.getvalue().encode())

    def state(self) -> dict:
        """The record as tensors and plain values, for a checkpoint."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "removals": [removal.as_dict() for removal in self.removals],
            "branches_computed": self.branches_computed,
            "charged": self.charged,
            "thetas": {name: torch.stack(path) for name, path in self.thetas.items()},
            "evidence": {name: known.clone() for name, known in self.evidence.items()},
        }

    @classmethod
    def from_state(cls, state: dict) -> History:
        """The record that `state` wrote."""
        return cls(
            rows=[EpochRow(**{name: _one_nan(value) for name, value in row.items()}) for row in state["rows"]],
            removals=[Removal(**removal) for removal in state["removals"]],
            thetas={name: list(path) for name, path in state["thetas"].items()},
            evidence={name: known.clone() for name, known in state.get("evidence", {}).items()},
            branches_computed=state["branches_computed"],
            charged=state["charged"],
        )


_of_gates = table(tensor((torch.float32,), 2))
STATE = record(
    {
        "rows": items(dataclass_record(EpochRow)),
        "removals": items(dataclass_record(Removal)),
        "branches_computed": number(finite=False),
        "charged": number(0),
        "thetas": _of_gates,
    },
    {"evidence": _of_gates},
)
"""What `History.state` looks like in a file."""


def _cells(row: EpochRow) -> tuple[str, ...]:
    """What a notebook shows of an epoch."""
    accuracy = "–" if math.isnan(row.val_accuracy) else f"{100 * row.val_accuracy:.2f} %"
    sizes = (f"{number:,}" for number in (row.gates_left, row.params, row.macs))
    return (str(row.epoch), row.phase, f"{row.loss:.4f}", accuracy, *sizes)


def _one_nan(value: object) -> Any:
    """``value``, or for a NaN the one of `math`, with which rows that were read compare as those that were written."""
    return math.nan if value != value else value
