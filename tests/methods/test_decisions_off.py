"""What a method switches off must be structures of a gate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bayesprune.errors import ConfigError
from bayesprune.methods import Decision, Method, Run
from bayesprune.training import fit
from tests.training.problems import Batches, examples, units


class Off(Method):
    """Says at the end that this is off."""

    name = "off"

    def __init__(self, gate: str, mask: Tensor):
        super().__init__()
        self.gate, self.mask = gate, mask

    def decide(self, run: Run) -> Decision:
        return Decision(off={self.gate: self.mask})


@pytest.mark.parametrize(
    ("gate", "mask"),
    [("nowhere", torch.tensor([True])), ("0", torch.ones(2, dtype=torch.bool)), ("0", torch.ones(8))],
    ids=["no gate", "another length", "no bool"],
)
def test_what_is_none_of_a_gates_masks_is_refused(gate: str, mask: Tensor) -> None:
    message = rf"Decision.off: '{gate}' needs a mask of bool, .* the network has 0 \(8\), 1 \(6\)"
    with pytest.raises(ConfigError, match=message):
        fit(units(), Batches(*examples(), 40), epochs=1, method=Off(gate, mask))
