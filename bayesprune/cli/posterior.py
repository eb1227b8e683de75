"""The network of a run as a Bayesian one: at the start of the run, and as it was left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from bayesprune.cli.config import RunConfig
from bayesprune.cli.folder import CHECKPOINT
from bayesprune.cli.network import named_network
from bayesprune.cli.own import check_code
from bayesprune.cli.record import check_run, read_config
from bayesprune.conversion.weights import TrainedWeights
from bayesprune.distributions import FlatteningPrior
from bayesprune.errors import CheckpointError, GateError
from bayesprune.infer import BayesianNet, Categorical
from bayesprune.pruning import compact, shrink
from bayesprune.schema import Mismatch, shaped
from bayesprune.training.state import Checkpoint


def new_net(
    config: RunConfig,
    input_shape: tuple[int, ...],
    num_classes: int,
    num_data: int,
    weights: TrainedWeights | None = None,
) -> BayesianNet:
    """The network of a run at its start.

    Args:
        config: Options of the run, the weight decay among them.
        input_shape: Shape of one example.
        num_classes: Number of outputs.
        num_data: N, the number of training examples.
        weights: Trained weights that it begins at; without them, and where a checkpoint follows, they are drawn.

    Raises:
        BayesPruneError: for an unknown network, or one that does not fit the data.
    """
    network = named_network(config.net, input_shape, num_classes, weights)
    likelihood = Categorical(config.label_smoothing)
    prior = None if config.log_gamma is None else FlatteningPrior(config.log_gamma)
    precision = 1.0 if config.weight_decay is None else config.weight_decay * num_data
    return BayesianNet(
        network, likelihood, num_data=num_data, prior=prior, weight_precision=precision, weights=config.slab,
        example_input=torch.zeros(1, *input_shape),
    )  # fmt: skip


def compact_posterior(net: BayesianNet) -> BayesianNet:
    """The posterior without the structures whose gates are off."""
    small = compact(net, posterior=True)
    assert isinstance(small, BayesianNet)
    return small


def read_posterior(folder: Path, num_classes: int, run_code: bool = False) -> BayesianNet:
    """The posterior of gates and weights as of the last checkpoint of a run, without what is off, on the CPU.

    Args:
        folder: Folder of the run.
        num_classes: Number of outputs of its network.
        run_code: Whether the code of a network of one's own may run.

    Returns:
        What `compact` leaves with ``posterior=True``, in eval mode.

    Raises:
        ConfigError: if ``folder`` is not that of a run.
        CheckpointError: if it has no checkpoint, or one that is damaged or of another run.
    """
    with _at_start(folder, num_classes, run_code) as (net, state):
        left = compact_posterior(net.eval())
        shaped(left.net.state_dict())(state.tensors, "tensors")
        left.net.load_state_dict(state.tensors)
    return compact_posterior(left)


def read_rounded(folder: Path, num_classes: int, multiple: int, run_code: bool = False) -> nn.Module:
    """The compacted network of a run with widths that are multiples of a number: zeros stand for what the run removed.

    Args:
        folder: Folder of the run.
        num_classes: Number of outputs of its network.
        multiple: See `compact`.
        run_code: Whether the code of a network of one's own may run.

    Raises:
        BayesPruneError: as `read_posterior`.
    """
    with _at_start(folder, num_classes, run_code) as (net, state):
        off = {name: theta == 0 for name, theta in net.by_gate(net.theta.detach()).items()}
        smaller, index = shrink(net.net, off, may_empty=True, example_input=net.example_input)
        shaped(smaller.state_dict())(state.tensors, "tensors")
        for name, value in net.net.state_dict().items():
            value.zero_()
            if name in index.kept:
                places = index.select(name, torch.arange(value.numel()).view(value.shape))
                value.view(-1)[places.flatten()] = state.tensors[name].flatten()
        return compact(net.eval(), round_to=multiple)


@contextmanager
def _at_start(folder: Path, num_classes: int, run_code: bool) -> Iterator[tuple[BayesianNet, Checkpoint]]:
    """The network as a run began, with the gates on that are left, and the last checkpoint, which fits it.

    Args:
        folder: Folder of the run.
        num_classes: Number of outputs of its network.
        run_code: Whether the code of a network of one's own may run.

    Raises:
        ConfigError: if ``folder`` is not that of a run, or the code of its network may not run.
        CheckpointError: if it has no checkpoint, or one that is damaged or of another run.
    """
    config, shape, run = read_config(folder)
    check_code(config.net, run_code, folder)
    path = folder / CHECKPOINT
    state = Checkpoint.read(path)
    check_run(path, state.run, run)
    try:
        net = new_net(config, shape, num_classes, state.num_data)
        _switch(net, state.origin)
        yield net, state
    except (Mismatch, GateError, KeyError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not the checkpoint of this run: it does not fit the network and the options in config.json; "
            "bring back the one that belongs to it, or train anew in another folder"
        ) from error


@torch.no_grad()
def _switch(net: BayesianNet, on: Mapping[str, Tensor]) -> None:
    """Switch on the gates of these indices, by gate name, and all others off."""
    none = torch.zeros(0, dtype=torch.long)
    for name, theta in net.by_gate(net.theta).items():
        theta.zero_()[on.get(name, none)] = 1.0
