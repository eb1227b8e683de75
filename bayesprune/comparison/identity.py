"""What tells the data and the networks of a comparison from others of the same names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import nn

from bayesprune.comparison.material import Material
from bayesprune.comparison.plan import Plan, Task
from bayesprune.data import Splits


def digest_of(content: object) -> str:
    """What tells a content that JSON can hold from every other."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def identities(plan: Plan, material: Material) -> dict[str, dict[str, str]]:
    """By task, digests of its ``data`` and of its untrained ``network``; draws no random number.

    Args:
        plan: The plan.
        material: Where networks and data come from.
    """
    return {task.name: _of_task(task, material, plan.tuning.seed) for task in plan.tasks}


def _of_task(task: Task, material: Material, seed: int) -> dict[str, str]:
    """Those of one task.

    Args:
        task: The task.
        material: Where its network and data come from.
        seed: Of the initial weights.
    """
    splits = material.splits(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = material.network(task, splits)
    return {"data": _of_data(splits), "network": _of_network(net)}


def _of_data(splits: Splits) -> str:
    """By every byte and label; the test images are hashed, and nothing else is done with them."""
    parts = [splits.train.images, splits.train.labels, splits.test.images, splits.test.labels]
    hashes = [[list(part.shape), hashlib.sha256(part.cpu().contiguous().numpy().data).hexdigest()] for part in parts]
    return digest_of([splits.num_classes, _rounded(splits.train.mean), _rounded(splits.train.std), hashes])


def _of_network(net: nn.Module) -> str:
    """By modules and shapes, and by the size of the initial weights, which other processors round differently."""
    state = net.state_dict()
    shapes = [[name, str(value.dtype), list(value.shape)] for name, value in state.items()]
    sizes = torch.stack([value.detach().double().norm().cpu() for value in state.values()])
    return digest_of([str(net), shapes, _rounded(sizes.norm().reshape(1))])


def _rounded(values: torch.Tensor) -> Sequence[str]:
    return [f"{value:.3g}" for value in values.tolist()]
