"""Shards: every process goes through the same batches and takes its own part of each."""

import pytest
import torch

from bayesprune.data import Augment, loaders
from bayesprune.data.images import Raw, make_splits
from bayesprune.data.spans import cut_epoch
from bayesprune.errors import ConfigError

COUNT = 50


@pytest.fixture(scope="module")
def splits():
    """Random images in five classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT + 10, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.arange(COUNT + 10) % 5
    return make_splits("toy", Raw(images[:COUNT], labels[:COUNT]), Raw(images[COUNT:], labels[COUNT:]), 5)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("batch_size", [7, 8, 12, 50, 64])
@pytest.mark.parametrize("count", [50, 51, 56, 7])
def test_parts_are_those_of_tensor_split(count, batch_size, world):
    pieces = list(torch.arange(count).split(batch_size))
    if len(pieces) > 1 and len(pieces[-1]) < world:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    for rank in range(world):
        spans = cut_epoch(count, batch_size, (rank, world))
        assert [span.size for span in spans] == [len(piece) for piece in pieces]
        for piece, (_, start, stop) in zip(pieces, spans, strict=True):
            assert piece[start:stop].equal(piece.tensor_split(world)[rank])
            assert stop > start


def test_one_process_takes_everything():
    assert cut_epoch(50, 16) == [(16, 0, 16), (16, 0, 16), (16, 0, 16), (2, 0, 2)]


def test_a_rest_that_is_too_small_joins_the_batch_before():
    assert cut_epoch(50, 16, (2, 3)) == [(16, 11, 16), (16, 11, 16), (18, 12, 18)]


@pytest.mark.parametrize("augment", [None, Augment(1)])
@pytest.mark.parametrize(("batch_size", "world"), [(10, 1), (10, 2), (10, 5), (12, 2), (11, 3), (64, 4)])
def test_the_parts_together_are_the_batches_of_one_process(splits, augment, batch_size, world):
    whole, whole_test = loaders(splits, batch_size, 3, augment=augment)
    pairs = [loaders(splits, batch_size, 3, augment=augment, shard=(rank, world)) for rank in range(world)]
    parts = [train for train, _ in pairs]
    for epoch in (1, 0, 4):
        for loader in (whole, *parts):
            loader.set_epoch(epoch)
        for (x, y), *shares in zip(whole, *parts, strict=True):
            assert torch.cat([share for share, _ in shares]).equal(x)
            assert torch.cat([share for _, share in shares]).equal(y)
    for _, test in pairs:
        assert torch.cat([x for x, _ in test]).equal(torch.cat([x for x, _ in whole_test]))


def test_every_example_once_and_the_same_crops_also_where_the_rest_is_merged(splits):
    whole, _ = loaders(splits, 8, 3, augment=Augment(1))
    x, y = (torch.cat(column) for column in zip(*whole, strict=True))
    parts = [loaders(splits, 8, 3, augment=Augment(1), shard=(rank, 4))[0] for rank in range(4)]
    assert [len(part) for part in parts] == [6] * 4
    rounds = [torch.cat([share for share, _ in shares]) for shares in zip(*parts, strict=True)]
    assert [len(batch) for batch in rounds] == [8] * 5 + [10]
    assert torch.cat(rounds).equal(x) and len(y) == COUNT


def test_spans_weigh_the_parts_of_uneven_batches(splits):
    whole, _ = loaders(splits, 11, 0)
    parts = [loaders(splits, 11, 0, shard=(rank, 3))[0] for rank in range(3)]
    for k, ((x, _), *shares) in enumerate(zip(whole, *parts, strict=True)):
        mean = torch.zeros((), dtype=torch.float64)
        for rank, (part, (share, _)) in enumerate(zip(parts, shares, strict=True)):
            size, start, stop = part.spans[k]
            assert (part.shard, size, stop - start) == ((rank, 3), len(x), len(share))
            mean += (stop - start) / size * share.double().square().mean()
        torch.testing.assert_close(mean, x.double().square().mean(), rtol=1e-12, atol=0)


def test_the_data_set_keeps_its_length(splits):
    for rank in range(3):
        train, test = loaders(splits, 8, 0, augment=Augment(1), shard=(rank, 3))
        assert (len(train.dataset), len(test.dataset), len(train)) == (COUNT, 10, 6)


@pytest.mark.parametrize("shard", [(-1, 2), (2, 2), (0, 0), (0, -1)])
def test_shards_that_are_none(splits, shard):
    with pytest.raises(ConfigError, match=rf"0 <= rank < world, got \({shard[0]}, {shard[1]}\)"):
        loaders(splits, 8, 0, shard=shard)


@pytest.mark.parametrize(("batch_size", "world"), [(3, 4), (64, 51)])
def test_batches_too_small_for_the_processes(splits, batch_size, world):
    with pytest.raises(
        ConfigError, match=f"each of the {world} processes, but batch_size is {batch_size} and there are 50"
    ):
        loaders(splits, batch_size, 0, shard=(0, world))
