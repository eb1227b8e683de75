"""How well a network does on a loader."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.data.inputs import called, each
from bayesprune.errors import DataError
from bayesprune.graph.misfit import misfits_named
from bayesprune.infer import BayesianNet, Likelihood
from bayesprune.infer.likelihoods import Categorical
from bayesprune.infer.outputs import LossOn, chosen
from bayesprune.infer.plain import PlainNet
from bayesprune.infer.targets import each_target, losses, values_of, weights_of
from bayesprune.layers import eval_mode
from bayesprune.training.batches import Loader, check_targets, dtype_of, read_batch
from bayesprune.types import Score


@torch.no_grad()
@checked_arguments
def evaluate(
    model: nn.Module, loader: Loader, likelihood: Likelihood | None = None, *, loss_on: LossOn = None
) -> Score:
    """Score a network in eval mode (a `BayesianNet` at the mode of its gates), one batch in memory at a time.

    Args:
        model: The network, or a `BayesianNet`.
        loader: Batches, such as `fit` takes.
        likelihood: For a plain network; categorical if not given.
        loss_on: For a plain network with several outputs, which of them is scored, as for `BayesianNet`.

    Raises:
        ConfigError: for what gives no batches, and if ``loss_on`` does not give one tensor of the outputs.
        DataError: if the loader is empty, or gives batches that the network or the likelihood does not take.
    """
    if isinstance(model, (BayesianNet, PlainNet)):
        net, likelihood, loss_on = model.net, model.likelihood, model.loss_on
    else:
        net, likelihood = model, likelihood or Categorical()
    device, dtype = next((p.device for p in model.parameters()), torch.device("cpu")), dtype_of(model)
    nll = right = counted = torch.zeros((), device=device)
    classes, count = True, 0
    with eval_mode(model):
        for number, batch in enumerate(loader):
            where = f"evaluate: batch {number}"
            x, given = read_batch(batch, dtype, where)
            x = each(x, lambda t: t.to(device))
            with misfits_named(net, x, where):
                outputs = model(x) if net is not model else chosen(called(net, x), loss_on)
            if number == 0 or values_of(given).device.type == "cpu":  # to look at others would wait for their device
                check_targets(likelihood, outputs[:1], given, where)
            y = each_target(given, lambda t: t.to(device))
            nll = nll + losses(likelihood, outputs, y).sum()
            hits = likelihood.right(outputs, values_of(y))
            weight = weights_of(y)
            if hits is not None:
                right = right + (hits if weight is None else weight * hits).sum()
                counted = counted + (len(y) if weight is None else weight.sum())
            classes = classes and hits is not None
            count += len(y)
    if count == 0:
        raise DataError("evaluate: the loader gave no batch; expected at least one example")
    accuracy = float(right) / float(counted) if classes and float(counted) else math.nan
    return Score(float(nll) / count, accuracy)


def class_probabilities(net: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Probabilities that a network in eval mode gives the classes, and what the classes are.

    Args:
        net: The network, inputs to logits.
        loader: Iterable[tuple[Tensor, Tensor]] of inputs and labels, at least one.

    Returns:
        Probabilities, shape ``(N, C)``, float64, and labels, shape ``(N,)``, both on the CPU.
    """
    device = next(net.parameters()).device
    with eval_mode(net), torch.no_grad():
        # float64, in which unlikely labels keep a probability; not every device has it.
        batches = [(net(x.to(device)).cpu().double().softmax(1), y.cpu()) for x, y in loader]
    probabilities, labels = zip(*batches, strict=True)
    return torch.cat(probabilities), torch.cat(labels)
