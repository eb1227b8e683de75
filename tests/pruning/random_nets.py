"""Networks drawn at random."""

from __future__ import annotations

import random

from torch import nn

from bayesprune import layers
from bayesprune.layers import Gate, Residual


def random_network(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A convolutional part, a flatten, a dense part, drawn at random from all that the layers offer."""
    rng = random.Random(seed)
    channels, parts = rng.randint(1, 4), []
    first = channels
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice(["gated", "normalised", "residual", "depthwise", "pool", "projection"])
        width = rng.randint(2, 7)
        if kind == "gated":
            act = rng.choice([nn.ReLU(), nn.Tanh(), nn.SiLU(), nn.Sigmoid(), nn.LeakyReLU(0.1, inplace=True)])
            gate, bias = rng.choice(["unit", None]), rng.random() < 0.7
            parts += [layers.Conv2d(channels, width, 3, padding=1, bias=bias, gate=gate), act]
            channels = width
        elif kind == "normalised":
            size = rng.choice([1, 3])
            parts += [nn.Conv2d(channels, width, size, padding=1), nn.BatchNorm2d(width), nn.ReLU(), Gate(width)]
            channels = width
        elif kind in ("residual", "projection"):
            out = channels if kind == "residual" else width
            body = nn.Sequential(
                layers.Conv2d(channels, width, 1, gate="unit"), nn.ReLU(inplace=True),
                nn.Conv2d(width, out, 1), nn.BatchNorm2d(out),
            )  # fmt: skip
            parts.append(Residual(body, None if kind == "residual" else nn.Conv2d(channels, out, 1)))
            channels = out
        elif kind == "depthwise":
            conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=rng.random() < 0.5)
            parts += [Gate(channels), conv, nn.Hardswish()]
        else:
            parts.append(rng.choice([nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.Dropout2d(0.2)]))
    parts += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    features = 4 * channels
    if rng.random() < 0.5:
        parts.append(Gate(features))
    for _ in range(rng.randint(0, 2)):
        width = rng.randint(2, 8)
        act = rng.choice([nn.ReLU(), nn.Softplus(), nn.GELU(), nn.BatchNorm1d(width)])
        parts += [layers.Linear(features, width, gate="unit"), act]
        features = width
    return nn.Sequential(*parts, nn.Linear(features, 3)), (first, 6, 6)
