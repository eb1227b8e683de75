"""What every pipeline of the image benchmark shares: network, data, optimiser, precision, and the time there is."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torch.utils.data import DataLoader

import bayesprune as bp
from bayesprune.data import Augment, EpochLoader, Splits
from bayesprune.infer import Categorical
from bayesprune.methods.svi.budget import Budget
from bayesprune.networks import FAMILIES, NETWORKS
from bayesprune.pruning import CostPrice
from bayesprune.training import Settings
from bayesprune.training.engine import Engine


class OutOfTime(Exception):
    """The time is up; checkpoints are written, and the same command goes on from them."""


class TooSmall(Exception):
    """A pipeline cannot give a network as small as it is asked to."""


@dataclass
class Deadline:
    """When to stop.

    However little time there is, an epoch is done, so that repeating the command comes to an end.

    Attributes:
        minutes: How long the script may run; infinite for no limit.
        began: When it began, by `time.perf_counter`.
        worked: Whether an epoch was done since.
    """

    minutes: float
    began: float
    worked: bool = False

    def epoch_done(self, seconds: float) -> None:
        """Raise `OutOfTime` unless there is time for another epoch, if it takes as long."""
        self.worked = True
        self.check(seconds)

    def check(self, seconds: float = 0.0) -> None:
        """Raise `OutOfTime` if an epoch was done and there is no time for what takes so long."""
        if self.worked and time.perf_counter() - self.began + seconds > 60 * self.minutes:
            raise OutOfTime


@dataclass(frozen=True)
class Experiment:
    """How networks are trained, the same for all pipelines.

    Attributes:
        net: Name of a network in `bayesprune.networks`.
        width: Channels of its first stage; ``None`` for the network's own.
        units: Whether also the channels within branches are gated.
        epochs: Length of a run from scratch; fine-tuning takes half of it.
        batch_size: Examples a batch.
        lr: Peak learning rate; fine-tuning takes a tenth of it.
        weight_decay: Coupled weight decay, the slab's precision over the number of examples.
        label_smoothing: Of the loss.
        every: Take a step on θ at every so-many-th step of the weights.
        reference: Name of the network that budget and price are relative to.
        budget: What is to be left, as `bayesprune.training.Budget` reads it, relative to ``reference``.
        price: ν of `bayesprune.pruning.CostPrice`, multiply-adds alone counted, instead of a budget.
        device: ``cpu``, ``cuda``, ...
        precision: ``float32``, or ``bf16`` for matrix products and convolutions.
        compile: Whether networks are compiled, the plain ones by `torch.compile`.
        blocks: How often steps and forward passes are timed in turn.
    """

    net: str
    width: int | None
    units: bool
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    label_smoothing: float
    every: int
    reference: str
    budget: str
    price: float | None
    device: str
    precision: str
    compile: bool
    blocks: int

    def gated(self, splits: Splits) -> nn.Module:
        """The gated network, initialised from torch's global random state, on the device."""
        extra = {} if self.width is None else {"width": self.width}
        extra |= {"units": True} if self.units else {}
        family = re.fullmatch(r"([a-z]+)(\d+)", self.net)
        if self.net in NETWORKS:
            net = NETWORKS[self.net](splits.input_shape, splits.num_classes, **extra)
        elif family and family[1] in FAMILIES:
            net = FAMILIES[family[1]](int(family[2]), splits.input_shape, splits.num_classes, **extra)
        else:
            raise SystemExit(f"no network is called {self.net!r}; try resnet56 or vgg16")
        return net.to(self.device, memory_format=self.memory_format)

    @property
    def memory_format(self) -> torch.memory_format:
        """How all pipelines lay out images and weights: as `Engine` does for networks with strided 1x1 by-passes."""
        return torch.channels_last if torch.device(self.device).type == "cuda" else torch.contiguous_format

    def plain(self, splits: Splits) -> nn.Module:
        """The same network with the same initial weights in plain PyTorch, all branches on and no gate."""
        return bp.compact(self.gated(splits).train())

    def bayesian(self, splits: Splits) -> bp.BayesianNet:
        """The gated network as a Bayesian one; the slab's precision is what makes its weight decay the experiment's."""
        count = len(splits.train)
        return bp.BayesianNet(
            self.gated(splits), self.likelihood(), num_data=count, weight_precision=self.weight_decay * count
        )

    def likelihood(self) -> Categorical:
        """What outputs mean."""
        return Categorical(self.label_smoothing)

    def plain_settings(self, lr: float) -> Settings:
        """How `fit` trains a network without gates, at this peak learning rate."""
        return Settings(lr=lr, optimizer=partial(nesterov, weight_decay=self.weight_decay))

    def settings(self, splits: Splits) -> Settings:
        """How `fit` trains; budget and price are relative to the network called ``reference``."""
        whole, own = (
            bp.cost(replace(self, net=net).plain(splits), example(splits)) for net in (self.reference, self.net)
        )
        common = {"lr": self.lr, "optimizer": nesterov, "every": self.every}
        if self.price is not None:
            return Settings(price=CostPrice(self.price, params=0.0, reference=whole), **common)
        budget = Budget.parse(self.budget)
        share = 1.0 if whole == own else getattr(whole, budget.measure) / getattr(own, budget.measure)
        return Settings(budget=replace(budget, fraction=budget.fraction * share), **common)

    def engine(self) -> Engine:
        """Where `fit` computes."""
        return Engine(self.device, precision=self.precision, compile=self.compile)

    def loaders(self, splits: Splits, seed: int) -> tuple[EpochLoader, DataLoader]:
        """Training batches, cropped and flipped, and test batches, both made on the device."""
        augment = Augment(pad=min(splits.input_shape[1:]) // 8)
        return bp.data.loaders(splits, self.batch_size, seed, augment=augment, device=self.device)


def nesterov(params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser of all pipelines: SGD with Nesterov momentum 0.9, one kernel for all parameters."""
    params = list(params)
    optimizer = torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay, fused=True)
    for parameter in params:  # the kernel wants a buffer for all or for none, but a branch may be off in the first step
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def example(splits: Splits) -> torch.Tensor:
    """One input, shape ``(1, C, H, W)``, on the CPU."""
    return torch.zeros(1, *splits.input_shape)


def peak_memory(before: int | None) -> int | None:
    """Most memory that tensors took on the CUDA device since the last reset, or ``before`` if that is more; bytes."""
    if not torch.cuda.is_available():
        return None
    return max(before or 0, torch.cuda.max_memory_allocated())
