"""Where sizes alone are asked for, they are those that the layer itself gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bayesprune.graph.sizes_alone import sizes_alone


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Linear(4, 3), (2, 5, 4)),
        (nn.Linear(4, 3), (4,)),
        (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
        (nn.Conv2d(4, 6, 3, padding="same", dilation=2), (2, 4, 9, 8)),
        (nn.Conv2d(4, 6, (3, 2), groups=2, padding=2, padding_mode="circular"), (2, 4, 9, 8)),
        (nn.Conv2d(4, 6, 3), (4, 9, 8)),
        (nn.Conv3d(4, 6, 2, bias=False), (2, 4, 5, 4, 3)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
    ],
    ids=str,
)
def test_of_layers(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape)
    found, given = sizes_alone(layer, (x,), {}), layer(x)
    assert (found.shape, found.dtype, found.device) == (given.shape, given.dtype, given.device)


@pytest.mark.parametrize("options", [{"need_weights": False}, {"need_weights": True}, {"average_attn_weights": False}])
def test_of_attention(options: dict[str, Any]) -> None:
    attention, x = nn.MultiheadAttention(4, 2, batch_first=True), torch.randn(2, 5, 4)
    found, given = sizes_alone(attention, (x, x, x), options), attention(x, x, x, **options)
    assert [None if part is None else part.shape for part in found] == [
        None if part is None else part.shape for part in given
    ]


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv1d(3, 2, 1)])
def test_what_a_layer_does_not_take_is_refused_as_by_itself(layer: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        sizes_alone(layer, (torch.randn(2, 5, 4),), {})
    with pytest.raises(RuntimeError):
        sizes_alone(layer, (torch.randn(2, 3, 3).double(),), {})
