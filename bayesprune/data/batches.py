"""Loaders that cut a whole batch with one index operation, in an order that seed and epoch alone decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from bayesprune.data.images import Images, Splits
from bayesprune.errors import ConfigError


class ShuffledBatches(Sampler[Tensor]):
    """Batches of indices: a permutation drawn from (seed, epoch) alone, cut in pieces; the last may be smaller.

    Every iteration moves on to the next epoch; `set_epoch` says which one comes next.

    Args:
        num_examples: Number of examples N.
        batch_size: Examples a batch.
        seed: Seed of all orders, ≥ 0.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int):
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be that of ``epoch`` (from 0).

        Raises:
            ConfigError: if ``epoch`` is negative.
        """
        if epoch < 0:
            raise ConfigError(f"set_epoch: epochs are counted from 0, got {epoch}")
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches an epoch."""
        return -(-self.num_examples // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        """Index tensors, int64, of ``batch_size`` entries each."""
        # numpy mixes the two numbers; torch's seed is one number, and seed + epoch would repeat orders between seeds.
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_examples)
        self.epoch += 1
        return iter(torch.from_numpy(order).split(self.batch_size))


class EpochLoader(DataLoader):
    """A `torch.utils.data.DataLoader` of training batches ``(x, y)`` whose order can be set to that of any epoch.

    It draws nothing from the global random state of torch, so iterating does not change what is drawn elsewhere.

    Args:
        data: Training examples.
        batch_size: Examples a batch.
        seed: Seed of the order, ≥ 0.
    """

    def __init__(self, data: Images, batch_size: int, seed: int):
        self.batches = ShuffledBatches(len(data), batch_size, seed)
        super().__init__(
            data, sampler=self.batches, batch_size=None, collate_fn=_unchanged, generator=torch.Generator()
        )

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration give the batches of ``epoch`` (from 0); without it each iteration moves on by one.

        Raises:
            ConfigError: if ``epoch`` is negative.
        """
        self.batches.set_epoch(epoch)


def loaders(splits: Splits, batch_size: int, seed: int) -> tuple[EpochLoader, DataLoader]:
    """Loaders of the training split, shuffled, and of the test split, in its own order.

    Both give tuples ``(x, y)`` of shapes ``(B, C, H, W)``, float32, and ``(B,)``, int64; the last batch may be smaller
    and ``len(loader.dataset)`` is the number of examples.

    Args:
        splits: The data.
        batch_size: Examples a batch, B.
        seed: Seed of the training order, ≥ 0.

    Raises:
        ConfigError: if ``batch_size`` < 1 or ``seed`` < 0.
    """
    if batch_size < 1:
        raise ConfigError(f"loaders: batch_size must be at least 1, got {batch_size}")
    if seed < 0:
        raise ConfigError(f"loaders: seed must be 0 or more, got {seed}")
    pieces = [slice(start, start + batch_size) for start in range(0, len(splits.test), batch_size)]
    test: DataLoader = DataLoader(
        splits.test, sampler=pieces, batch_size=None, collate_fn=_unchanged, generator=torch.Generator()
    )
    return EpochLoader(splits.train, batch_size, seed), test


def _unchanged(batch: Any) -> Any:
    """The batch as it is; a function with a name, so that a loader can be sent to worker processes."""
    return batch
