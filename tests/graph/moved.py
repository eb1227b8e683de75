"""Networks with one call that moves entries, for the tests of what may go behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.graph import gates_of

C, SIZE = 8, 6
EACH = [{k} for k in range(C)]
HALVES = [{k, k + 4} for k in range(4)]
PAIRS = [{k, k + 1} for k in range(0, C, 2)]
BLOCKS = [{0, 1, 2, 3}, {4, 5, 6, 7}]
QUARTERS = [{k, k + 2, k + 4, k + 6} for k in range(2)]


class Moved(nn.Module):
    """A gated convolution with 8 maps on (B, 2, 6, 6), a function of what it gives, and what reads that."""

    def __init__(self, function: Callable[[Tensor], Tensor], out: nn.Module) -> None:
        super().__init__()
        self.first, self.function, self.out = layers.Conv2d(2, C, 1, gate="unit"), function, out

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(F.relu(self.first(x))))


def shuffled(h: Tensor) -> Tensor:
    b, c, rows, columns = h.shape
    return h.view(b, 2, c // 2, rows, columns).transpose(1, 2).reshape(b, c, rows, columns)


def shuffled_back_to_minus_one(h: Tensor) -> Tensor:
    b, c, rows, columns = h.size()
    return torch.transpose(h.reshape(b, 4, c // 4, rows, columns), 1, 2).contiguous().view(b, -1, rows, columns)


def gated_linear_unit(h: Tensor) -> Tensor:
    a, b = h.chunk(2, dim=1)
    return a * torch.sigmoid(b)


def windows(h: Tensor) -> Tensor:
    """Windows of 2 x 3 become examples, as in Swin transformers, and maps again."""
    b, rows, columns, c = h.permute(0, 2, 3, 1).shape
    h = h.permute(0, 2, 3, 1).view(b, rows // 2, 2, columns // 3, 3, c)
    parts = torch.tanh(h.permute(0, 1, 3, 2, 4, 5).reshape(-1, 6, c))
    h = parts.view(b, rows // 2, columns // 3, 2, 3, -1).permute(0, 1, 3, 2, 4, 5)
    return h.reshape(b, rows, columns, -1)


def tokens(h: Tensor) -> Tensor:
    return h.flatten(2).transpose(1, 2)


def heads(sizes: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Features into heads, which become the second dimension, and back."""
    return lambda h: tokens(h).unflatten(-1, sizes).transpose(1, 2).relu().movedim(1, 2).flatten(2)


def picked(parts: Any, *places: int) -> list[Tensor]:
    """Some of the parts of a tensor: older releases of torch do not trace functions of all of them."""
    return [parts[place] for place in places]


def conv(width: int = C) -> nn.Module:
    return nn.Conv2d(width, 2, 1)


Case = tuple[Callable[[Tensor], Tensor], Callable[[], nn.Module], list[set[int]], int]
FREE: dict[str, Case] = {  # with what goes together, and the parameters behind that one group takes along
    "permute, the batch in the middle": (lambda h: h.permute(1, 0, 2, 3).tanh().permute(1, 0, 2, 3), conv, EACH, 2),
    "movedim": (lambda h: h.movedim(1, -1), lambda: nn.Linear(C, 2), EACH, 2),
    "moveaxis": (lambda h: torch.moveaxis(h, (1, 2), (3, 1)), lambda: nn.Linear(C, 2), EACH, 2),
    "flip of channels": (lambda h: h.flip(1), conv, EACH, 2),
    "flip of space": (lambda h: torch.flip(h, (2, 3)), conv, EACH, 2),
    "roll over space": (lambda h: torch.roll(h, (1, -2), (2, 3)), conv, EACH, 2),
    "rot90": (lambda h: torch.rot90(h, 1, (2, 3)), conv, EACH, 2),
    "narrow in space": (lambda h: h.narrow(2, 1, 3), conv, EACH, 2),
    "select in space": (lambda h: h.select(2, 1).mean(2), lambda: nn.Linear(C, 2), EACH, 2),
    "unbind of space": (lambda h: torch.stack(picked(h.unbind(2)[1:], 1, 3, 0), 2), conv, EACH, 2),
    "one of unbind": (lambda h: h.unbind(-1)[3].amax(2), lambda: nn.Linear(C, 2), EACH, 2),
    "stack": (lambda h: torch.stack([h, h.neg()], 2).flatten(2, 3), conv, EACH, 2),
    "stack along channels": (lambda h: torch.stack([h, h.exp() - 1], 1).flatten(1, 2), lambda: conv(16), EACH, 4),
    "chunk of space": (lambda h: torch.cat(picked(h.chunk(3, 2), 2, 1, 0), 2), conv, EACH, 2),
    "expand": (lambda h: h.mean((2, 3), keepdim=True).expand(-1, -1, 3, 3), conv, EACH, 2),
    "expand_as": (lambda h: h * h.mean((2, 3), keepdim=True).expand_as(h), conv, EACH, 2),
    "repeat of channels": (lambda h: h.repeat(1, 2, 1, 1), lambda: conv(16), EACH, 4),
    "tile": (lambda h: torch.tile(h, (1, 3, 1, 2)), lambda: conv(24), EACH, 6),
    "repeat_interleave": (lambda h: h.repeat_interleave(2, dim=1), lambda: conv(16), EACH, 4),
    "unfold": (lambda h: h.unfold(2, 3, 1).mean(-1), conv, EACH, 2),
    "view(b, -1)": (lambda h: h.view(h.shape[0], -1), lambda: nn.Linear(288, 2), EACH, 72),
    "view(b, c * 36)": (lambda h: h.view(h.shape[0], h.shape[1] * 36), lambda: nn.Linear(288, 2), EACH, 72),
    "reshape(b, c * y * x)": (
        lambda h: h.reshape(h.size(0), h.size(1) * h.size(2) * h.size(3)), lambda: nn.Linear(288, 2), EACH, 72,
    ),
    "view(b, c, -1)": (lambda h: h.view(h.shape[0], h.shape[1], -1).sum(2), lambda: nn.Linear(C, 2), EACH, 2),
    "view(-1, c, 36)": (lambda h: h.view(-1, h.shape[1], 36), lambda: nn.Conv1d(C, 2, 1), EACH, 2),
    "view(b, -1, 36)": (lambda h: h.view(h.shape[0], -1, 36), lambda: nn.Conv1d(C, 2, 1), EACH, 2),
    "view(shape[:2] + (-1,))": (
        lambda h: h.view(h.shape[:2] + (-1,)), lambda: nn.Conv1d(C, 2, 1), EACH, 2,  # noqa: RUF005
    ),
    "flatten(1, 2)": (lambda h: h.flatten(1, 2).mean(2), lambda: nn.Linear(48, 2), EACH, 12),
    "unflatten of space": (lambda h: h.flatten(2).unflatten(2, (6, 6)), conv, EACH, 2),
    "mT": (lambda h: h.flatten(2).mT.tanh(), lambda: nn.Linear(C, 2), EACH, 2),
    "tokens, flattened": (lambda h: tokens(h).flatten(1), lambda: nn.Linear(288, 2), EACH, 72),
    "view(b, 2, 2, -1)": (lambda h: h.view(h.shape[0], 2, 2, -1).flatten(1), lambda: nn.Linear(288, 2), EACH, 72),
    "windows": (windows, lambda: nn.Linear(C, 2), EACH, 2),
    "view_as": (lambda h: h.flatten(1).view_as(h), conv, EACH, 2),
    "flattened between others": (lambda h: h.permute(0, 2, 1, 3).flatten(1), lambda: nn.Linear(288, 2), EACH, 72),
}  # fmt: skip
TIED: dict[str, Case] = {
    "chunk": (lambda h: h.chunk(2, 1)[1] - h.chunk(2, 1)[0], lambda: conv(4), HALVES, 2),
    "chunk in four": (lambda h: torch.cat(picked(h.chunk(4, dim=1), 3, 2, 1, 0), 1), conv, QUARTERS, 8),
    "tensor_split": (
        lambda h: torch.stack(picked(torch.tensor_split(h, 2, 1), 0, 1), 2).sum(2), lambda: conv(4), HALVES, 2,
    ),
    "split by a size of its own": (lambda h: h.split(h.shape[1] // 2, dim=1)[0], lambda: conv(4), HALVES, 2),
    "halves": (lambda h: h[:, : h.shape[1] // 2] - h[:, h.shape[1] // 2 :], lambda: conv(4), HALVES, 2),
    "[:, ::2]": (lambda h: h[:, ::2].neg() + h[:, 1::2], lambda: conv(4), PAIRS, 2),
    "channel shuffle": (shuffled, conv, HALVES, 4),
    "channel shuffle, by hand, in four": (shuffled_back_to_minus_one, conv, QUARTERS, 8),
    "ChannelShuffle": (nn.ChannelShuffle(2), conv, HALVES, 4),
    "channel_shuffle": (lambda h: F.channel_shuffle(h, 4), conv, QUARTERS, 8),
    "two heads": (heads((2, -1)), lambda: nn.Linear(C, 2), HALVES, 4),
    "heads of four": (heads((-1, 4)), lambda: nn.Linear(C, 2), BLOCKS, 8),
    "roll by a half": (lambda h: h.roll(h.shape[1] // 2, 1), conv, HALVES, 4),
}  # fmt: skip


def group_off(net: nn.Module, *entries: int) -> None:
    with torch.no_grad():
        gate = gates_of(net)["first"]
        gate.theta.fill_(1.0)
        gate.theta[list(entries)] = 0.0
