"""Variational inference as a method of the training loop: gates are drawn, θ takes steps, what is off for good goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from bayesprune.data.inputs import joined, shapes_of
from bayesprune.errors import ConfigError
from bayesprune.infer import BatchObjective, BayesianNet, GateSampler, get_estimator
from bayesprune.infer.objective import penalty
from bayesprune.infer.targets import joined_targets, losses
from bayesprune.methods.protocol import Batch, Decision, Method, Needs, Phase, Run, Value
from bayesprune.methods.svi.gates import GateUpdates, begin, begin_whole
from bayesprune.methods.svi.normal_weights import count_due, divergence_due, divergence_share, scales_due
from bayesprune.methods.svi.payoff import Payoff
from bayesprune.methods.svi.penalties import make_penalty
from bayesprune.methods.svi.removal import GateRemoval
from bayesprune.methods.svi.schedule import make_schedule
from bayesprune.methods.svi.settings import Settings
from bayesprune.methods.svi.settling import Settling
from bayesprune.methods.svi.shrinkage import shrink_weights
from bayesprune.schema import generator_state, record, require, tensor
from bayesprune.types import Evidence

RARELY = 4
"""At the first of so many evaluations gates that a batch shares are judged under a budget, if none were sampled."""
EXAMPLES = 1024
"""How many examples tell how many parameters the fit has taken, at least if there are as many."""


class SVI(Method):
    """Stochastic variational inference of a `BayesianNet`; see the method page of the documentation.

    Args:
        settings: How to train; ``None`` to go by those that `fit` is given or recommends.

    Attributes:
        settings: How it trains, as soon as `fit` has begun.
        schedule: The phases of θ within the run.
        updates: The steps of θ.
        penalty: What structures cost.
        settling: What steps of θ go by while settling.
        sampler: The gates of one batch after another.
        removal: Which structures go.

    Examples:
        >>> SVI(Settings(every=1)).settings.every
        1
    """

    name: ClassVar[str] = "svi"
    posterior: ClassVar[bool] = True

    def __init__(self, settings: Settings | None = None):
        super().__init__()
        self.made_with, self.settings = settings, settings or Settings()

    def setup(self, run: Run) -> Needs:
        """Make ready for a run of a `BayesianNet`.

        Raises:
            ConfigError: for another network, and for settings that do not go with it.
        """
        settings, net = self.settings, _bayesian(run)
        net.theta.requires_grad_()
        self.schedule = make_schedule(net, run.epochs, run.steps_per_epoch, settings)
        self.estimator = get_estimator(settings.estimator)
        if net.weights_posterior.name == "point" and settings.temperature != 1:
            raise ConfigError(
                f"fit: Settings.temperature={settings.temperature} is about the posterior of weights; build the "
                "BayesianNet with weights='normal', or leave the temperature at 1"
            )
        if net.weights_posterior.name == "normal" and run.engine.divides:
            raise ConfigError("fit: Normal weights cannot be divided among processes; take strategy 'auto'")
        begin_whole(net)
        self.updates = GateUpdates(net, run.engine.mean)
        self.sampler = GateSampler(net, int(run.engine.broadcast(int(torch.randint(2**62, ())))))
        self.settling = Settling(net, self.sampler, self.updates.exact, self.schedule, settings.every)
        self.penalty = make_penalty(net, run.example, settings, self.schedule, run.engine.broadcast)
        begin(net)  # costs are relative to the network with all of it
        self.sampler.synchronize()
        rules = self.penalty.may_go, Payoff(net, run, self.penalty), self.penalty.blame
        self.removal = GateRemoval(net, run, self.updates, settings.patience, *rules)
        self._examples: list[Batch] | None = None
        again = self.schedule.fine_tune_from if net.weights_posterior.name == "point" else None
        return Needs((Phase("svi", decide_every=1, rise_again=again),))

    # a step --------------------------------------------------------------------------------------------------------

    @contextmanager
    def epoch(self, run: Run) -> Iterator[None]:
        """Let prices follow as an epoch begins; in it layers may be handed the variances of their weights."""
        net = _bayesian(run)
        self.penalty.update(run.step)
        self._examples = [] if self._counts_freedom(run, net) else None
        try:
            yield
        finally:
            net.weights_posterior.drop_variances()

    def _moves(self, net: BayesianNet, step: int) -> bool:
        """Whether θ moves by a sampled gradient in this step."""
        return net.num_gates > 0 and self.schedule.phase(step) == "sample" and step % self.settings.every == 0

    def objective(self, run: Run) -> Value:
        """The negative ELBO for gates that are drawn, or where θ moves what its estimator makes of it."""
        net, (x, y, part) = _bayesian(run), run.batch
        moves = self._moves(net, run.step)
        self._drawn = self.sampler(*part, repeated=moves or self.schedule.phase(run.step) == "settle")
        xi, on = self.settling.watched(self._drawn, run.step)
        net.weights_posterior.cache_variances(learn=scales_due(self.schedule, run.step, self.settings.every))
        if not moves:
            with run.engine.autocast():
                known = on if xi.requires_grad else [*on, *self.sampler.whole]
                outputs = run.module(x, xi, skip=True, on=known)
                loss = losses(net.likelihood, outputs, y).mean()
            return Value(loss, loss.detach())
        objective = BatchObjective(net, x, y, on=on, module=run.module, generator=self.sampler.generator)
        with run.engine.autocast():
            loss = self.estimator(objective, net.theta, xi, net.price)
        return Value(loss, loss.detach() - (net.price * net.theta.detach()).sum())

    def grads(self, run: Run) -> None:
        """What the priors of Normal weights and of the likelihood's parameters ask of them."""
        _bayesian(run).add_gradients()

    def stepped(self, run: Run) -> None:
        """Move θ, and look at what is due after this step."""
        net, step = _bayesian(run), run.step - 1
        self.settling.allowance.earn(run.batch.part.size)
        if self._moves(net, step):
            self.updates.sampled.step(self.schedule.sampling_step(step) * self.settings.every)
            self.sampler.refresh()
        if self._examples is not None and len(self._examples) * len(run.batch.y) < EXAMPLES:
            self._examples.append(run.batch)
        with torch.enable_grad():
            self.watch(run, net, step)

    def watch(self, run: Run, net: BayesianNet, step: int) -> None:
        """Follow divergence and cost while sampling, settle gates on exact differences, and come to rest at the end.

        Args:
            run: The run.
            net: Its network.
            step: The step that was just taken.
        """
        schedule, phase = self.schedule, self.schedule.phase(step)
        if divergence_due(schedule, step):
            net.refresh(self.settings.temperature * divergence_share(schedule, step))
        if self.penalty.due(step):
            if self.penalty.needs_differences:
                self._judge_shared(run, net)
            self._update_prices(step)
        if step == schedule.settle_start:
            self.updates.sampled.update_net_cost()
        if phase == "settle" and net.num_gates:
            self._settle(run, net, step)
        if run.step == max(1, schedule.settle_end):
            with run.engine.whole():
                if schedule.settle_end < schedule.steps:
                    self.removal.rest()
                self._remove(run, net, run.step, self.penalty.enforce(self.updates.differences))
            self.sampler.synchronize()
        if run.step == schedule.settle_end + 1:  # not before what was decided has been scored and written down
            with run.engine.whole():
                self._shrink(net)

    def _shrink(self, net: BayesianNet) -> None:
        """As fine-tuning has begun: let weights that are points go on from a smaller size."""
        if net.prior_type.decides and net.weights_posterior.name == "point":
            shrink_weights(net, self.schedule)

    def _settle(self, run: Run, net: BayesianNet, step: int) -> None:
        """Learn what the data say of the gates; at the end of each interval move θ by it and remove."""
        schedule = self.schedule
        self.settling.gather(run, self._drawn, step)
        if (step - schedule.settle_start) % schedule.settle_every == schedule.settle_every - 1:
            self.updates.exact.step(schedule.settling_step(step))
            if not schedule.samples and self.penalty.needs_differences and self.updates.exact.evaluations % RARELY == 1:
                self._judge_shared(run, net)
            with run.engine.whole():
                if not schedule.samples:
                    self.penalty.approach(step, self.updates.differences)
                self._remove(run, net, step)
            self.sampler.synchronize()
            self._update_prices(step)

    def _judge_shared(self, run: Run, net: BayesianNet) -> None:
        """Learn by one batch what the gates bring that a batch shares."""
        run.engine.average_statistics(net)
        with run.engine.autocast():
            self.updates.sampled.add_shared_differences(run.batch.x, run.batch.y, self.sampler(*run.batch.part))

    def _update_prices(self, step: int) -> None:
        """Let prices follow θ, and a budget's multiplier what the data say."""
        self.penalty.update(step, self.updates.differences if self.penalty.needs_differences else None)

    def _remove(self, run: Run, net: BayesianNet, step: int, forced: Tensor | None = None) -> None:
        """Look at the gates and remove what may go, on every process alike.

        Args:
            run: The run.
            net: Its network.
            step: The step that is done.
            forced: At rest, when all goes that is off, which of it is off for the sake of a budget.
        """
        run.engine.agree("the gates' inclusion probabilities", net.theta.detach())
        if run.prune and (self.removal.check() if forced is None else self.removal.clear(forced)):
            self.sampler.synchronize()
            self.penalty.rebuild()
            self.penalty.update(step)

    # the end of an epoch -------------------------------------------------------------------------------------------

    def decide(self, run: Run) -> Decision:
        """Count what the fit has taken, and in sampling remove what may go, with the evidence of the epoch."""
        net = _bayesian(run)
        if self._examples is not None:
            self._count_freedom(run, net, self._examples)
            self._examples = None
        phase = self.schedule.phase(run.step - 1)
        if phase == "sample":
            self.updates.sampled.update_net_cost()
            self._remove(run, net, run.step)
        if phase in ("sample", "settle"):  # otherwise θ rests
            self.sampler.synchronize()
        return Decision(note={"phase": phase, "nu": self.penalty.nu, "expected": self.penalty.expected})

    def loss(self, run: Run) -> float:
        """What the negative ELBO has besides the data term, up to a constant, nats per example."""
        return penalty(_bayesian(run))

    def _counts_freedom(self, run: Run, net: BayesianNet) -> bool:
        """Whether this epoch ends with a count of the parameters that the fit has taken."""
        counted = net.weights_posterior.name == "normal" and net.likelihood.learned_noise is not None
        return counted and count_due(self.schedule, run.epoch)

    def _count_freedom(self, run: Run, net: BayesianNet, examples: list[Batch]) -> None:
        """Count them on those of this process's examples that have one shape; the mean over processes goes on."""
        alike = [batch for batch in examples if shapes_of(batch.x) == shapes_of(examples[0].x)]
        x, y = joined([batch.x for batch in alike]), joined_targets([batch.y for batch in alike])
        count = net.uncounted_parameters(x, y, self.settings.temperature)
        net.likelihood.set_fitted_parameters(float(run.engine.mean(torch.tensor(count, device=net.theta.device))))

    def evidence(self) -> Evidence:
        """Prices, net costs and their errors."""
        return self.updates.evidence

    # checkpoints ---------------------------------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """None of its own: its settings are those of the run."""
        return {}

    def state(self) -> dict[str, Any]:
        """Estimates, prices and random numbers."""
        return {
            "agreed": self.removal.monitor.agreed.cpu(),
            "updates": self.updates.state(),
            "allowance": self.settling.allowance.state(),
            "penalty": self.penalty.state(),
            "gates_rng": self.sampler.state(),
        }

    def check(self, state: Mapping[str, Any], gates: int) -> None:
        """See `Method.check`."""
        rng = record({"host": generator_state}, {"cuda": generator_state})
        record({"agreed": tensor((torch.long,), 1), "gates_rng": rng})(state, "")
        require(len(state["agreed"]) == gates, "agreed", f"{gates} counts", state["agreed"])
        self.updates.schema(gates)(state["updates"], "updates")
        self.settling.allowance.schema()(state["allowance"], "allowance")
        self.penalty.schema()(state["penalty"], "penalty")

    def load(self, state: Mapping[str, Any], run: Run) -> None:
        """See `Method.load`."""
        self.updates.load(state["updates"])
        self.removal.monitor.agreed = state["agreed"].to(run.net.theta.device)
        self.settling.allowance.load(state["allowance"])
        self.penalty.load(state["penalty"])
        self.penalty.update(run.step)
        self.sampler.load(state["gates_rng"])


def _bayesian(run: Run) -> BayesianNet:
    """The network of a run that `SVI.setup` has let begin."""
    return cast(BayesianNet, run.net)
