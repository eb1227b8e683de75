"""Loaders that cut a whole batch with one index operation, in an order that seed and epoch alone decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bayesprune.arguments import checked_arguments
from bayesprune.checked import whole
from bayesprune.data.augment import Augment, AugmentedImages
from bayesprune.data.images import Images, Splits
from bayesprune.data.spans import Span, cut_epoch


class ShuffledBatches(Sampler[Tensor]):
    """Batches of indices: a permutation drawn from (seed, epoch) alone, cut in pieces; the last may be smaller.

    Every iteration moves on to the next epoch; `set_epoch` says which one comes next.

    Args:
        num_examples: Number of examples N.
        spans: The pieces, as from `cut_epoch`.
        seed: Seed of all orders, ≥ 0.
        augment: How images are varied, ``None`` for not at all.
        device: Where the indices go, once an epoch.
    """

    def __init__(
        self,
        num_examples: int,
        spans: list[Span],
        seed: int,
        augment: Augment | None = None,
        device: str | torch.device = "cpu",
    ):
        self.num_examples = num_examples
        self.spans = spans
        self.seed = seed
        self.augment = augment
        self.device = device
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be that of ``epoch`` (from 0).

        Raises:
            ConfigError: if ``epoch`` is negative or no whole number.
        """
        self.epoch = whole("set_epoch: epoch", epoch, 0, hint="epochs are counted from 0")

    def __len__(self) -> int:
        """Number of batches an epoch."""
        return len(self.spans)

    def __iter__(self) -> Iterator[Tensor]:
        """Index tensors, int64: shape ``(B,)``, or ``(4, B)`` as `AugmentedImages` takes them."""
        # numpy mixes the two numbers; torch's seed is one number, and seed + epoch would repeat orders between seeds.
        plan = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_examples)
        if self.augment is not None:
            plan = np.concatenate([plan[None], self.augment.draw(self.num_examples, self.seed, self.epoch)])
        self.epoch += 1
        pieces = torch.from_numpy(plan).to(self.device).split([span.size for span in self.spans], dim=-1)
        return (piece[..., start:stop] for piece, (_, start, stop) in zip(pieces, self.spans, strict=True))


class EpochLoader(DataLoader):
    """A `torch.utils.data.DataLoader` of training batches ``(x, y)`` whose order can be set to that of any epoch.

    It draws nothing from the global random state of torch, so iterating does not change what is drawn elsewhere.

    Args:
        data: Training examples.
        batch_size: Examples a batch, those of all processes together.
        seed: Seed of the order and of the augmentation, ≥ 0.
        augment: How images are varied, ``None`` for not at all.
        device: Where the examples are kept and the batches are made.
        shard: Number of this process, from 0, and number of processes.

    Attributes:
        shard: As given.
        labels: Labels of all examples, shape ``(N,)``, int64.
        spans: What the batches of every epoch are, in order: ``spans[k]`` holds the size B of batch k in all processes
            together, and the places ``start`` to ``stop`` in it that this process gives. The mean loss of the whole
            batch is the sum over processes of ``(stop - start) / size`` times the mean loss of each.

    Raises:
        ConfigError: if the shard is none, a batch would leave a process without examples, or the augmentation does not
            fit the images.

    Examples:
        >>> from bayesprune.data import load
        >>> loader = EpochLoader(load("digits", limit=100).train, batch_size=32, seed=0)
        >>> [len(y) for _, y in loader]
        [32, 32, 32, 4]
    """

    @checked_arguments
    def __init__(
        self,
        data: Images,
        batch_size: int,
        seed: int,
        augment: Augment | None = None,
        device: str | torch.device = "cpu",
        shard: tuple[int, int] = (0, 1),
    ):
        batch_size = whole("loaders: batch_size", batch_size)
        seed = whole("loaders: seed", seed, 0)
        self.shard = shard
        self.spans = cut_epoch(len(data), batch_size, shard)
        self.batches = ShuffledBatches(len(data), self.spans, seed, augment, device)
        held = data.to(device)
        self.labels = held.labels
        dataset: Dataset = held if augment is None else AugmentedImages(held, augment)
        super().__init__(
            dataset, sampler=self.batches, batch_size=None, collate_fn=_unchanged, generator=torch.Generator()
        )

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration give the batches of ``epoch`` (from 0); without it each iteration moves on by one.

        Raises:
            ConfigError: if ``epoch`` is negative or no whole number.
        """
        self.batches.set_epoch(epoch)


@checked_arguments
def loaders(
    splits: Splits,
    batch_size: int,
    seed: int,
    *,
    augment: Augment | None = None,
    device: str | torch.device = "cpu",
    shard: tuple[int, int] = (0, 1),
) -> tuple[EpochLoader, DataLoader]:
    """Loaders of the training split, shuffled, and of the test split, in its own order.

    Both give tuples ``(x, y)`` of shapes ``(B, C, H, W)``, float32, and ``(B,)``, int64; the last batch may be smaller
    and ``len(loader.dataset)`` is the number of examples.

    With several processes each builds its loaders with the same arguments and its own rank. All go through the same
    training batches, with the same crops and flips as one process would, and each gives its own part of every batch;
    see `EpochLoader.spans`. The test loader gives every process the whole test split.

    Args:
        splits: The data.
        batch_size: Examples a batch, B, those of all processes together.
        seed: Seed of the training order and of the augmentation, ≥ 0.
        augment: How training images are varied, ``None`` for not at all.
        device: Where the examples are kept, as bytes, and the batches are made. Nothing in an iteration waits for the
            device.
        shard: Number of this process, from 0, and number of processes.

    Raises:
        ConfigError: if ``batch_size`` < 1 or ``seed`` < 0 or either is no whole number, unless 0 ≤ rank < world and
            every process has a part of every batch, or if the augmentation's border is as wide as the images.
    """
    batch_size = whole("loaders: batch_size", batch_size)
    seed = whole("loaders: seed", seed, 0)
    pieces = [slice(start, start + batch_size) for start in range(0, len(splits.test), batch_size)]
    train = EpochLoader(splits.train, batch_size, seed, augment, device, shard)
    test: DataLoader = DataLoader(
        splits.test.to(device), sampler=pieces, batch_size=None, collate_fn=_unchanged, generator=torch.Generator()
    )
    return train, test


def _unchanged(batch: Any) -> Any:
    """The batch as it is; a function with a name, so that a loader can be sent to worker processes."""
    return batch
