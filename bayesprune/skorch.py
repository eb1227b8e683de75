"""Pruning while skorch trains: a `NeuralNetClassifier` whose training steps are those of `fit`.

Needs ``skorch`` (``pip install 'bayesprune[skorch]'``). For scikit-learn's interface on tables without skorch see
`bayesprune.sklearn`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from skorch import NeuralNetClassifier
from torch import nn

from bayesprune.conversion import convert
from bayesprune.errors import DataError
from bayesprune.infer import BayesianNet
from bayesprune.layers import gates_of
from bayesprune.methods import get_method
from bayesprune.training import History, Settings
from bayesprune.training.batches import Loader, count_examples
from bayesprune.training.handed import HandedRun
from bayesprune.training.loggers import figures

__all__ = ["PruningClassifier"]


class PruningClassifier(NeuralNetClassifier):
    """A classifier of skorch that prunes itself while it is trained.

    ``module`` is a network, or a class or function that makes one, which gives a row of logits an example. As training
    begins it gets gates where it has none (`bayesprune.convert`) and a posterior, and ``module_`` is that
    `BayesianNet` from then on: `bayesprune.compact` takes the small network out of it. Steps are those of
    `bayesprune.fit`, with its optimiser and loss: skorch's ``optimizer`` and ``lr`` are not heard, and ``criterion``
    scores validation batches alone. Every figure of `EpochRow` stands in skorch's history; callbacks get
    ``y_pred=None`` for training batches. Each call of ``fit`` or ``partial_fit`` is a whole run: phases are shares of
    it.

    Args:
        module: As for `skorch.NeuralNetClassifier`.
        args: Likewise.
        criterion: Likewise; of logits.
        settings: How to train, as for `bayesprune.fit`; ``None`` for what is recommended.
        prune: Whether structures are removed while training.
        kwargs: As for `skorch.NeuralNetClassifier`.

    Attributes:
        pruning_history_: The record of the last run, of the same form as that of `bayesprune.fit`.

    Raises:
        ConfigError: when training starts, for settings that cannot work.
        DataError: for batches that cannot be trained on: labels are whole numbers from 0.
        GateError: for a network in which no place for a gate is found.

    Examples:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> PruningClassifier(net, max_epochs=20, iterator_train__shuffle=True).prune
        True
    """

    module_: nn.Module

    def __init__(
        self,
        module: nn.Module | Callable[..., nn.Module],
        *args: Any,
        criterion: type[nn.Module] = nn.CrossEntropyLoss,
        settings: Settings | None = None,
        prune: bool = True,
        **kwargs: Any,
    ):
        super().__init__(module, *args, criterion=criterion, **kwargs)
        self.settings, self.prune = settings, prune
        self._run: HandedRun | None = None

    def check_data(self, X: Any, y: Any = None) -> None:
        """Look at labels before training.

        Args:
            X: Inputs, as skorch takes them.
            y: Labels, as skorch takes them.

        Raises:
            DataError: for labels that are no numbers.
        """
        super().check_data(X, y)
        if y is not None and not isinstance(y, torch.Tensor) and np.asarray(y).dtype.kind in "OUS":
            raise DataError(
                "PruningClassifier: labels must be whole numbers from 0, got text or objects; make them so with "
                "sklearn.preprocessing.LabelEncoder().fit_transform(y)"
            )

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> PruningClassifier:
        """None: the run makes its own."""
        return self

    def fit_loop(self, X: Any, y: Any = None, epochs: int | None = None, **params: Any) -> PruningClassifier:
        """Train by skorch's loop.

        Args:
            X: Inputs, as skorch takes them.
            y: Labels, as skorch takes them.
            epochs: Length of the run; ``None`` for ``max_epochs``.
            **params: As skorch takes them.
        """
        self._epochs, self._run = self.max_epochs if epochs is None else epochs, None
        try:
            super().fit_loop(X, y, epochs, **params)
            if self._run is not None:
                self._run.end()
        finally:
            if self._run is not None:
                self._run.close()
            self._run = None
        return self

    def run_single_epoch(self, iterator: Any, training: bool, prefix: str, step_fn: Any, **params: Any) -> None:
        """Go through the batches of an epoch; after those of training decide, and record the figures.

        Args:
            iterator: The batches.
            training: Whether to train on them.
            prefix: What skorch's history calls them.
            step_fn: What is done with each.
            **params: As skorch takes them.
        """
        if not training:
            super().run_single_epoch(iterator, training, prefix, step_fn, **params)
            return
        if self._run is None:
            self._run = self._begun(iterator)
        self._number = 0
        self._run.begin_epoch()
        super().run_single_epoch(iterator, training, prefix, step_fn, **params)
        row = figures(self._run.end_epoch())
        for name in row.keys() - {"epoch", "val_nll", "val_accuracy"}:
            self.history.record(name, row[name])

    def train_step(self, batch: Any, **params: Any) -> dict[str, Any]:
        """One step.

        Args:
            batch: ``(inputs, labels)``.
            **params: None is heard.
        """
        assert self._run is not None
        loss = self._run.step(batch, self._number)
        self._number += 1
        return {"loss": loss, "y_pred": None}

    def _begun(self, loader: Loader) -> HandedRun:
        """The run, of the network as it is."""
        if not isinstance(self.module_, BayesianNet):
            self.module_ = self._bayesian(loader)
        method = get_method("svi")
        run = HandedRun(
            self.module_, loader, self._epochs, method=method, likelihood=None, loss_on=None, prune=self.prune,
            settings=self.settings, device=self.device,
        )  # fmt: skip
        run.begin()
        self.pruning_history_: History = run.trainer.history
        return run

    def _bayesian(self, loader: Loader) -> BayesianNet:
        """The user's network with gates and a posterior."""
        net: nn.Module = self.module_
        if not gates_of(net):
            with torch.random.fork_rng(devices=[]):
                first = next(iter(loader))
            net = convert(net, example_input=first[0][:2].to(self.device))
        return BayesianNet(net, num_data=count_examples(loader, 1))
