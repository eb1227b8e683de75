"""Gates on columns of a table, of which some go together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.errors import ConfigError
from bayesprune.layers.gate import INITIAL_THETA, Gate


class ColumnGroups(nn.Module):
    """One gate a group of columns: the one-hot columns of a category are in a network together, or none of them is.

    Columns come out in the order of the sizes of their groups, and within a size in that of the groups. Groups of one
    size share a `Gate` with an entry for each; a step takes no longer with more groups.

    Args:
        groups: Columns that go together, every column in one group.
        theta: Initial inclusion probability.

    Attributes:
        sizes: The different sizes of groups, in order.
        gates: One `Gate` a size.
        members: For each size, which groups have it.

    Shape:
        input ``(B, d)``, output the same.

    Raises:
        ConfigError: for groups that leave columns out or share them.

    Examples:
        >>> gates = ColumnGroups([[0, 3], [1], [2]])
        >>> gates.gates[1].theta.data.zero_()  # the pair goes
        tensor([0.])
        >>> gates(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        tensor([[2., 3., 0., 0.]])
    """

    @checked_arguments
    def __init__(self, groups: Sequence[Sequence[int]], *, theta: float = INITIAL_THETA):
        super().__init__()
        columns = [whole("ColumnGroups: a column", column, 0) for group in groups for column in group]
        if not columns or sorted(columns) != list(range(len(columns))) or not all(len(group) for group in groups):
            raise ConfigError(
                "ColumnGroups: every column from 0 on must be in one group and only one, and no group be empty; give a "
                "column that goes with no other a group of its own"
            )
        self.sizes = sorted({len(group) for group in groups})
        self.members = [[k for k, group in enumerate(groups) if len(group) == size] for size in self.sizes]
        self.gates = nn.ModuleList(Gate(len(members), theta=theta) for members in self.members)
        for size, members in zip(self.sizes, self.members, strict=True):
            order = torch.tensor([int(column) for k in members for column in groups[k]])
            self.register_buffer(f"columns_{size}", order)

    def forward(self, x: Tensor) -> Tensor:
        """The columns, each times the gate of its group."""
        parts = []
        for size, members, gate, columns in zip(self.sizes, self.members, self.gates, self.columns(), strict=True):
            part = torch.index_select(x, 1, columns)
            parts.append(gate(part.view(-1, len(members), size)).flatten(1))
        return torch.cat(parts, 1)

    def columns(self) -> list[Tensor]:
        """For each size, the columns of its groups, one group after the other."""
        return [self.get_buffer(f"columns_{size}") for size in self.sizes]
