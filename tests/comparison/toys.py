"""A task whose answer is planted: four of eight units hold all that there is to know, and training changes little."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from bayesprune import layers
from bayesprune.comparison import ComparisonResult, Plan, Row, compare
from bayesprune.comparison.rows import MEASURED
from bayesprune.data import Splits
from bayesprune.data.images import Images, Raw, make_splits

CLASSES, UNITS, PIXELS = 4, 8, 16
TRAIN, TEST = 160, 80


class Counted(Images):
    """Images that count how many of them were looked at."""

    looked_at = 0

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(index)
        self.looked_at += len(y)
        return x, y


def splits() -> Splits:
    """The pixel that is bright, of the first four, is the class; the others are noise. Test images count looks."""
    generator = torch.Generator().manual_seed(3)

    def part(count: int) -> Raw:
        labels = torch.arange(count) % CLASSES
        images = torch.randint(40, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
        images[torch.arange(count), 0, 0, labels] = 255
        return Raw(images, labels)

    test = part(TEST)
    made = make_splits("planted", part(TRAIN), test, CLASSES)
    return replace(made, test=Counted(test, made.test.mean, made.test.std))


def planted(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Units 0 to 3 each see a pixel and speak for its class; units 4 to 7 hold next to nothing."""
    net = nn.Sequential(nn.Flatten(), layers.Linear(PIXELS, UNITS, gate="unit"), nn.ReLU(), nn.Linear(UNITS, classes))
    with torch.no_grad():
        for layer in (net[1], net[3]):
            layer.weight.mul_(1e-3)
            layer.bias.zero_()
            layer.weight[range(CLASSES), range(CLASSES)] = 5.0
    return net


def settings(**changes: Any) -> dict[str, Any]:
    """A small comparison of the planted task."""
    return {
        "title": "planted",
        "seeds": [0, 1],
        "macs": [0.5],
        "weights": [0.5],
        "compute": [1],
        "tuning": {"trials": 2, "seed": 7},
        "tasks": [{"net": "planted", "data": "planted", "epochs": 2}],
        "methods": {"none": {}, "random_structures": {}, "l1_filters": {"until": {"low": 0.4, "high": 0.6}}},
        **changes,
    }


def compared(out: Path, given: dict[str, Any] | Plan, **more: Any) -> ComparisonResult:
    """A comparison of the planted task."""
    return compare(given, out=out, networks={"planted": planted}, data={"planted": more.pop("data", splits())}, **more)


def read_csv(path: Path) -> list[Row]:
    """The rows of a CSV that a comparison wrote."""
    kinds = get_type_hints(Row)
    with path.open(newline="") as file:
        return [Row(**{name: kinds[name](value) for name, value in line.items()}) for line in csv.DictReader(file)]


def settled(rows: list[Row]) -> list[Row]:
    """Rows without what differs from one time to the next."""
    return [replace(row, **dict.fromkeys(MEASURED, 0.0)) for row in rows]
