"""Torchvision's attention within shifted windows, written out so that its heads can be followed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOWED = "torchvision.models.swin_transformer.ShiftedWindowAttention"
"""What Swin transformers (Liu et al. 2021) attend with; with ``V2`` behind its name those of Liu et al. 2022."""
APART = -100.0
"""What torchvision adds to the weight of attention between places that are no neighbours in the image."""


def write_windows(net: nn.Module) -> None:
    """Put a `Windows` in the place of each of torchvision's modules of attention, which is one call that stays closed.

    Args:
        net: The network, changed in place.
    """
    for name, module in list(net.named_modules()):
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        if name and kind in (WINDOWED, f"{WINDOWED}V2"):
            net.set_submodule(name, Windows(module))


class Windows(nn.Module):
    """What torchvision's attention computes, with its parameters under their names, for maps of any size.

    Args:
        attention: The module of torchvision, in whose place it goes.
    """

    def __init__(self, attention: Any):
        super().__init__()
        self.window: Sequence[int] = attention.window_size
        self.shift: Sequence[int] = attention.shift_size
        self.head_dim = attention.qkv.in_features // attention.num_heads
        self.cosine = hasattr(attention, "logit_scale")
        self.qkv, self.proj, self.qkv_bias = attention.qkv, attention.proj, None
        self.attention_dropout, self.dropout = nn.Dropout(attention.attention_dropout), nn.Dropout(attention.dropout)
        self.relative_position_index = nn.Buffer(attention.relative_position_index)
        if self.cosine:
            self.logit_scale, self.cpb_mlp = attention.logit_scale, attention.cpb_mlp
            self.relative_coords_table = nn.Buffer(attention.relative_coords_table)
            self._take_bias()
        else:
            self.relative_position_bias_table = attention.relative_position_bias_table

    def _take_bias(self) -> None:
        """Keys have no bias here, although the map of queries, keys and values has one for them."""
        bias, self.qkv.bias = self.qkv.bias, None
        if bias is not None:
            queries, keys, values = torch.ones_like(bias).detach().chunk(3)
            self.qkv_bias, self.has_bias = bias, nn.Buffer(torch.cat([queries, 0 * keys, values]))

    def forward(self, x: Tensor) -> Tensor:
        """Attention within windows of maps, shape ``(B, H, W, C)``, filled up with zeros to whole windows."""
        height, width = x.shape[1], x.shape[2]
        tall, wide = self.window
        x = F.pad(x, (0, 0, 0, -width % wide, 0, -height % tall))
        x = self._shifted(x) if sum(self.shift) else self._joined(self._attend(self._cut(x, 1)))
        return x[:, :height, :width].contiguous()

    def _shifted(self, x: Tensor) -> Tensor:
        """Attention within windows that are moved down and to the right, unless one is as large as the maps."""
        rows, columns = x.shape[1], x.shape[2]
        down, right = self.shift[0] * (rows > self.window[0]), self.shift[1] * (columns > self.window[1])
        x = torch.roll(x, (-down, -right), (1, 2))
        x = self._joined(self._attend(self._cut(x, 1), self._apart(x, rows - down, columns - right)))
        return torch.roll(x, (down, right), (1, 2))

    def _joined(self, x: Tensor) -> Tensor:
        """Maps of windows."""
        return x.unflatten(3, tuple(self.window)).transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _cut(self, x: Tensor, dim: int) -> Tensor:
        """Maps cut into windows, a row of them after the other, and every window's places in one dimension.

        Args:
            x: The maps.
            dim: The first of the two dimensions that they have; there are three of windows and places instead.
        """
        tall, wide = self.window
        x = x.unflatten(dim + 1, (-1, wide)).unflatten(dim, (-1, tall))
        return x.transpose(dim + 1, dim + 2).flatten(dim + 2, dim + 3)

    def _attend(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention within each window.

        Args:
            x: Windows, shape ``(B, rows, columns, places, C)``.
            mask: What is added to the weights between places, shape ``(rows, columns, 1, places, places)``.
        """
        mapped = self.qkv(x) if self.qkv_bias is None else self.qkv(x) + self.qkv_bias * self.has_bias
        q, k, v = mapped.unflatten(-1, (3, -1, self.head_dim)).permute(4, 0, 1, 2, 5, 3, 6).unbind(0)
        if self.cosine:
            scale = torch.clamp(self.logit_scale, max=math.log(100.0)).exp()
            weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale
        else:
            weights = q * self.head_dim**-0.5 @ k.transpose(-2, -1)
        weights = weights + self._bias()
        if mask is not None:
            weights = weights + mask
        mixed = self.attention_dropout(F.softmax(weights, dim=-1)) @ v
        return self.dropout(self.proj(mixed.transpose(3, 4).flatten(4)))

    def _bias(self) -> Tensor:
        """What every head adds to the weights between places, shape ``(heads, places, places)``."""
        places = self.window[0] * self.window[1]
        if self.cosine:
            table = 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table).flatten(0, 2))
        else:
            table = self.relative_position_bias_table
        return table[self.relative_position_index].unflatten(0, (places, places)).permute(2, 0, 1)

    def _apart(self, x: Tensor, last_row: int, last_column: int) -> Tensor:
        """What is added between places of one window that shifting has brought together.

        Args:
            x: The shifted maps.
            last_row: The first of the rows that were at the other end before.
            last_column: The first of such columns.
        """
        below = torch.ones_like(x[0, :, :1, 0]).cumsum(0) > last_row
        beyond = torch.ones_like(x[0, :1, :, 0]).cumsum(1) > last_column
        part = self._cut(below * 2 + beyond * 1, 0)
        level = APART * torch.ones_like(x[0, :1, :1, :1])  # of the kind of number of the maps
        return ((part.unsqueeze(-1) != part.unsqueeze(-2)) * level).unsqueeze(2)
