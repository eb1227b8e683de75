"""A network with gates as one function of its inputs and of one vector of gate values."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.data.inputs import Inputs, as_inputs, called
from bayesprune.errors import ConfigError
from bayesprune.graph import Traced, gates_of, trace
from bayesprune.infer.draws import GateDraws
from bayesprune.infer.outputs import LossOn, chosen
from bayesprune.infer.random_state import frozen_statistics
from bayesprune.infer.resumption import BlockPass, Resumption
from bayesprune.layers import Draw, Gate, Residual, holders_of, normal_layers

_FLATTENING = threading.Lock()
"""Threads that use a network for the first time since it was copied or moved take turns."""


class GatedNet(nn.Module):
    """A gated network whose gates are handed in as one vector, and whose θ are one vector too.

    Args:
        net: Gated network, inputs ``(B, ...)``.
        loss_on: Which of several outputs counts, see `chosen`.

    Attributes:
        net: The gated network. In eval mode, without a draw, it uses the mode of its gates.
        branch_evaluations: How many branches (gates with one draw a batch) all passes with drawn gates have computed.
        num_branches: Number of gates on whole branches, which come first in `theta`.
        num_shared: Number of gates that have one value for a batch, which come before all others.
    """

    def __init__(self, net: nn.Module, loss_on: LossOn = None):
        super().__init__()
        self.net, self.loss_on = net, loss_on
        self.branch_evaluations = 0
        self._theta = torch.zeros(0, requires_grad=True)
        self._connect()

    # gates ---------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Give every gate its slot, first those with one number a batch, which the host can then know as one list."""
        named = gates_of(self.net)
        branch = {name: gate.per_batch and gate.size == 1 for name, gate in named.items()}
        names = sorted(named, key=lambda name: (not branch[name], not named[name].per_batch))
        self._gates: dict[str, Gate] = {name: named[name] for name in names}
        self._module_order = list(named)
        self.draw = Draw([gate.size for gate in self._gates.values()])
        for slot, gate in enumerate(self._gates.values()):
            gate.connect(self.draw, slot)
        normal = normal_layers(self.net)
        for layer in normal.values():
            layer.draw = self.draw
        self._noise = bool(normal)
        self.num_branches = sum(branch.values())
        self.num_shared = sum(gate.size for gate in named.values() if gate.per_batch)
        self.exchange(self.net)
        self._flatten()

    def __getstate__(self) -> dict:
        """What a copy is made of: all but graphs, which are made anew when they are asked for."""
        return {**self.__dict__, "_resumption": {}, "_traced": {}}

    def _flatten(self) -> None:
        """Let the θ of all gates be views of one vector, so that a step on θ is one operation."""
        with _FLATTENING, torch.inference_mode(False):
            thetas = [gate.theta.detach().reshape(-1) for gate in self._gates.values()]
            thetas = thetas or [next(self.net.parameters(), torch.zeros(0)).new_zeros(0)]  # all branches may be gone
            flat = torch.cat(thetas).clamp_(0, 1)
            for gate, part in zip(self._gates.values(), flat.split(self.draw.sizes), strict=True):
                gate.theta.data = part
            if len(self._theta) != len(flat):
                self._theta = flat.requires_grad_(True)
            else:  # an optimiser may hold the leaf: it goes on with other numbers, as parameters of modules do
                gradient, self._theta.grad = self._theta.grad, None
                self._theta.data = flat
                self._theta.grad = None if gradient is None else gradient.to(flat)
        self._projected, self._handed_out = self._theta._version, False

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters by name, in place of each gate's own θ the one vector `theta`, on which gradients arrive.

        So a plain torch optimiser of ``parameters()`` moves the gates, too. It may leave [0, 1]; before θ is read
        again, it is projected there. After a cut an optimiser has to be built anew. A module that holds this one lists
        the gates' own θ, without gradients: optimise ``parameters()`` of this one, and average weights of `net`.
        """
        thetas = {id(gate.theta) for gate in self._gates.values()}
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if id(parameter) not in thetas:
                yield name, parameter
        if recurse and self.num_gates:
            self._handed_out = True
            yield f"{prefix}.theta" if prefix else "theta", self.theta  # type: ignore[misc]

    def _synchronize(self) -> None:
        """Gather θ again if any gate's parameter was replaced; `theta` looks at the first gate alone, which is fast."""
        start = self._theta.data_ptr()
        for gate in self._gates.values():
            if gate.theta.data_ptr() != start:
                self._flatten()
                break
            start += gate.theta.numel() * gate.theta.element_size()
        self._project()

    def _project(self) -> None:
        """If θ was written to since, maybe by an optimiser that knows no bounds: bring it back into [0, 1].

        Fused optimisers leave no sign that they did, so of a θ that was handed out as a parameter that is assumed.
        """
        if self._handed_out or self._theta._version != self._projected:
            self._theta.data.clamp_(0, 1)  # of what lies within, a graph may hold the values
            self._projected = self._theta._version

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """As of every module, with θ in [0, 1]."""
        self._synchronize()
        return super().state_dict(*args, **kwargs)

    @property
    def theta(self) -> Tensor:
        """Posterior inclusion probabilities of all gates, shape ``(S,)``, a leaf; the gates share its storage."""
        first = next(iter(self._gates.values()), None)
        if first is not None and first.theta.data_ptr() != self._theta.data_ptr():  # copied, moved or cast since
            self._flatten()
        self._project()
        return self._theta

    @property
    def num_gates(self) -> int:
        """S, the number of gates now in the network."""
        return self._theta.numel()

    @property
    def gate_names(self) -> list[str]:
        """Names of the gated modules, in the order of their entries in `theta` and ``log_gamma``."""
        return list(self._gates)

    def gates(self) -> list[Gate]:
        """The gates, in the order of their entries in `theta`."""
        return list(self._gates.values())

    def gate_probs(self) -> dict[str, Tensor]:
        """Posterior inclusion probabilities θ by name of the gated module, in the order of the network's modules.

        Under a fixed prior, at temperature 1, they approximate probabilities under the model, in the mean field. The
        flattening prior drives each θ to 0 or 1: it says there what is kept, a decision, not how sure it is.
        """
        self._synchronize()
        return {name: self._gates[name].theta.detach().clone() for name in self._module_order}

    def by_gate(self, values: Tensor) -> dict[str, Tensor]:
        """Cut a vector of shape ``(S,)``, ordered as `theta`, into one part for each gated module."""
        return dict(zip(self._gates, values.split(self.draw.sizes), strict=True))

    def weights(self) -> dict[str, nn.Parameter]:
        """All parameters of the network but its gates', by name; of Normal weights means and log scales."""
        thetas = {id(gate.theta) for gate in self._gates.values()}
        return {name: p for name, p in self.net.named_parameters() if id(p) not in thetas}

    def check_owner(self) -> None:
        """Refuse to go on with a network that has been given to another `BayesianNet` since.

        Raises:
            ConfigError: for such a one: its gates take their values from the other.
        """
        if any(gate.draw is not self.draw for gate in self._gates.values()):
            raise ConfigError(
                "BayesianNet: the network belongs to a later BayesianNet, which has taken over its gates and weights; "
                "use that one, or build a network for each"
            )

    def gated_network(self) -> nn.Module:
        """The gated network itself."""
        return self.net

    def exchange(self, net: nn.Module, followed: nn.Module | None = None) -> None:
        """Compute with another form of the network, whose gates and buffers are these very ones.

        Args:
            net: The form, whose modules bear the same names.
            followed: A form whose forward pass can be followed, if that of ``net`` cannot.
        """
        self.net = net
        holders = holders_of(net)
        self._holders = [list(holders.get(gate, {}).values()) for gate in self.gates()]
        self._followed = () if followed is None else (followed,)  # no submodule: its weights are those of ``net``
        self._norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        self._resumption: dict[bool, Resumption] = {}
        self._traced: dict[bool, Traced] = {}

    # forward -------------------------------------------------------------------------------------------------------

    def forward(
        self, x: Any, xi: Tensor | None = None, *, skip: bool = False, on: Sequence[bool | None] | None = None
    ) -> Tensor:
        """Outputs of the network with the given gate values.

        Normal weights are those of a draw within which this is called; otherwise, with given gate values, layers draw
        their outputs (local reparameterisation), and for the mode of the gates weights are their means.

        Args:
            x: Inputs, shape ``(B, ...)``; of a network that takes several a tuple, or a dict by name.
            xi: Gate values, shape ``(S,)``, ``(1, S)`` or ``(B, S)``, ordered as `theta`; ``None`` for the mode.
            skip: Whether branches whose gates are off are left out of the computation (they then get no derivative).
            on: With ``skip``, which of the branch gates, the first ``num_branches``, are on in ``xi``; ``None`` to
                read it off ``xi``, which waits for the device. More entries are about the gates of the next slots:
                True where a whole gate is on for all examples, which is then not multiplied by; else None.
        """
        x = as_inputs(x)
        mode = xi is None
        if xi is None:
            self._synchronize()
            xi, skip = (self.theta.detach() > 0.5).to(self.theta.dtype), True
        known: Sequence[bool | None] = ()
        if skip:
            known = self.branches_on(xi) if on is None else on
        if not mode:
            if next(iter(self._gates.values()), self).draw is not self.draw:
                self.check_owner()
            if self.num_branches:  # modules take long to set what is set in every step
                self.branch_evaluations += sum(map(bool, known[: self.num_branches])) if known else self.num_branches
        with self.draw.use(xi, known, noise=len(x) if self._noise and not mode else 0):
            return chosen(called(self.net, x), self.loss_on)

    def branches_on(self, xi: Tensor) -> list[bool]:
        """Which of the branch gates are on in ``xi``; waits for the device."""
        if self.num_branches == 0:
            return []
        return ((xi if xi.dim() == 1 else xi[0])[: self.num_branches] > 0.5).tolist()

    def branches(self, slots: Iterable[int]) -> list[nn.Module]:
        """What passes leave out while the branch gates of these slots are known to be off."""
        blocks = [block for slot in slots for block in self._holders[slot] if isinstance(block, Residual)]
        return [block.body if type(block).forward is Residual.forward else block for block in blocks]

    def is_branch(self, name: str) -> bool:
        """Whether what a gate switches has a by-pass around it: all that holds the gate are residual blocks."""
        holders = self._holders[self.gate_names.index(name)]
        return bool(holders) and all(isinstance(holder, Residual) for holder in holders)

    @property
    def traced(self) -> Traced:
        """The graph of the network's forward pass, in its present mode."""
        if self.training not in self._traced:
            self._traced[self.training] = trace(self.net)
        return self._traced[self.training]

    @property
    def resumption(self) -> Resumption:
        """Where passes through the network can be resumed, in its present mode."""
        if self.training not in self._resumption:
            followed = [module.train(self.training) for module in self._followed]
            self._resumption[self.training] = Resumption(self.net, self.gates(), *followed)
        return self._resumption[self.training]

    def slot_of(self, s: int) -> int:
        """The slot of the gate that entry ``s`` of `theta` belongs to."""
        if 0 <= s < self.num_branches:  # branches come first, one entry each
            return s
        for slot, size in enumerate(self.draw.sizes):
            if s < size:
                return slot
            s -= size
        raise IndexError(f"the network has {self.num_gates} gates")

    def resume(self, x: Inputs, xi: Tensor, s: int, seen: BlockPass, on: Sequence[bool] | None = None) -> Tensor:
        """Outputs for the gates ``xi`` with the shared gate ``s`` flipped, computed from its block on.

        Args:
            x: Inputs, shape ``(B, ...)``.
            xi: Gate values, shape ``(1, S)`` or ``(B, S)``, ordered as `theta`.
            s: An entry of `theta` that all examples share.
            seen: What the pass with ``xi`` met at the blocks of ``s``, see `Resumption.watch`.
            on: As in `forward`, for ``xi``.
        """
        xi = xi.clone()
        xi[:, s] = (xi[:, s] < 0.5).to(xi.dtype)
        known = self.branches_on(xi) if on is None else [(not value) if i == s else value for i, value in enumerate(on)]
        slot = self.slot_of(s)
        self.branch_evaluations += sum(known[i] for i in self.resumption.behind[slot] or () if i < self.num_branches)
        with self.draw.use(xi, known, noise=len(x) if self._noise else 0):
            return chosen(self.resumption.resume(slot, x, seen), self.loss_on)

    def rows(self, x: Inputs) -> int:
        """How many draws a batch takes: one an example, or one in all if every gate is shared by the batch."""
        return 1 if self.num_shared == self.num_gates else len(x)

    def sample_gates(self, x: Inputs) -> Tensor:
        """Gate values drawn from the guide for a batch, shape ``(rows, S)``."""
        return GateDraws(self.theta.detach(), self.rows(x), self.num_shared, validate_args=False).sample()

    def frozen_statistics(self) -> AbstractContextManager[None]:
        """Let passes within the context leave the running statistics of normalisations in training mode as they are."""
        return frozen_statistics(self._norms)
