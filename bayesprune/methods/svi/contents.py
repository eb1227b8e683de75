"""What the part of a checkpoint that is variational inference's own must look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bayesprune.schema import (
    generator_state,
    items,
    number,
    optional,
    record,
    require,
    table,
    tensor,
)


def _anything(value: object, where: str) -> None:
    """What is compared with this run's own."""


CONTENTS = record(
    {
        "agreed": tensor((torch.long,), 1),
        "updates": _anything,
        "prices": record(
            {
                "multiplier": number(),
                "beginning": number(finite=False),
                "reference": table(number()),
                "seconds": optional(items(number(0))),
                "at_rest": optional(number()),
            }
        ),
        "gates_rng": record({"host": tensor((torch.uint8,), 1)}, {"cuda": tensor((torch.uint8,), 1)}),
    }
)


def check_state(updates: Mapping[str, Any], state: Mapping[str, Any], gates: int) -> None:
    """Refuse counts and estimates that are not there, or not one a gate.

    Args:
        updates: The estimates of a run that has not begun.
        state: What `CONTENTS` let pass.
        gates: How many gates there are.

    Raises:
        Mismatch: where something does not fit.
    """
    require(len(state["agreed"]) == gates, "agreed", f"{gates} counts", state["agreed"])
    expected = {n: tensor((v.dtype,), 1) if isinstance(v, Tensor) else number(0) for n, v in updates.items()}
    found = state["updates"]
    record(expected)(found, "updates")
    for name, mine in updates.items():
        if isinstance(mine, Tensor):
            require(len(found[name]) == gates, f"updates.{name}", f"{gates} values", found[name])
    for value in state["gates_rng"].values():
        generator_state(value, "gates_rng")
