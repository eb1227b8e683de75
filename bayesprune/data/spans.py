"""How an epoch is cut into batches, and a batch into the parts of several processes."""

from __future__ import annotations

from typing import NamedTuple

from bayesprune.errors import ConfigError


class Span(NamedTuple):
    """One batch of an epoch and the part of it that one process takes.

    Attributes:
        size: Number of examples in the batch, those of all processes together.
        start: Place in the batch of the process's first example.
        stop: Place in the batch behind its last example.
    """

    size: int
    start: int
    stop: int


def cut_epoch(num_examples: int, batch_size: int, shard: tuple[int, int] = (0, 1)) -> list[Span]:
    """Cut the places 0 to N - 1 of an epoch's order into batches, and each batch into one part a process.

    Every batch but the last holds ``batch_size`` examples. A rest with fewer examples than there are processes joins
    the batch before it, so that every process has a part of every batch. The parts are those of `torch.tensor_split`:
    in the order of the processes, and one example larger for the first ones where the size cannot be divided.

    Args:
        num_examples: Number of examples N.
        batch_size: Examples a batch, those of all processes together.
        shard: Number of this process, from 0, and number of processes.

    Returns:
        One entry a batch; sizes and number of entries are the same for all processes.

    Raises:
        ConfigError: unless 0 ≤ rank < world ≤ ``batch_size`` and ≤ N.
    """
    rank, world = shard
    if not 0 <= rank < world:
        raise ConfigError(
            f"loaders: shard must be (rank, world) with 0 <= rank < world, got {shard}; processes are numbered from 0"
        )
    if min(batch_size, num_examples) < world:
        raise ConfigError(
            f"loaders: every batch must hold at least one example for each of the {world} processes, but batch_size is "
            f"{batch_size} and there are {num_examples} examples; batch_size counts the examples of all processes"
        )
    full, rest = divmod(num_examples, batch_size)
    sizes = [batch_size] * full
    if rest >= world:
        sizes.append(rest)
    else:
        sizes[-1] += rest
    return [Span(size, _place(size, rank, world), _place(size, rank + 1, world)) for size in sizes]


def _place(size: int, rank: int, world: int) -> int:
    """Where the part of process ``rank`` begins in a batch of ``size`` examples; ``rank`` = ``world`` gives the end."""
    share, larger = divmod(size, world)
    return rank * share + min(rank, larger)
