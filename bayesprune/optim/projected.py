"""Projected SGD for inclusion probabilities, as a torch optimiser and as a Pyro one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.errors import ConfigError


class ProjectedGateSGD(torch.optim.Optimizer):
    """θ ← Proj_[0,1](θ − η ĝ): a clamped gradient step on inclusion probabilities; θ can reach 0 and 1 exactly.

    Args:
        params: Inclusion probabilities.
        lr: Step size η; a number, or a tensor of θ's shape for one step size a gate.

    Raises:
        ConfigError: for a step size that is negative or not finite.

    Examples:
        >>> import torch
        >>> theta = torch.tensor([0.5, 0.01])
        >>> theta.grad = torch.tensor([-1.0, 1.0])
        >>> ProjectedGateSGD([theta], lr=0.1).step()
        >>> theta
        tensor([0.6000, 0.0000])
    """

    @checked_arguments
    def __init__(self, params: Iterable[Tensor], lr: float | Tensor):
        if not isinstance(lr, Tensor):
            lr = real("ProjectedGateSGD: lr", lr, 0, ends="[)")
        elif not bool((torch.isfinite(lr) & (lr >= 0)).all()):
            raise ConfigError("ProjectedGateSGD: every step size in lr must be finite and not negative")
        params = list(params)
        if not params:
            raise ConfigError("ProjectedGateSGD: params holds no inclusion probabilities; give the gates' theta")
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step and project."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for theta in group["params"]:
                if theta.grad is not None:
                    theta.sub_(theta.grad * group["lr"]).clamp_(0, 1)
        return loss


class ProjectedSGD(PyroOptim):
    """Pyro-style optimiser for `BayesianNet`: gates by projected SGD, everything else by a torch optimiser.

    Args:
        optim_args: Arguments of the projected SGD on θ, ``{"lr": η}``.
        weights: Constructor of the torch optimiser for all other parameters.
        weights_args: Its arguments.

    Examples:
        >>> from pyro.infer import SVI
        >>> from bayesprune.infer import BayesianNet, GateELBO
        >>> from bayesprune.networks import resmlp
        >>> bnn = BayesianNet(resmlp((4,), 2, depth=2), num_data=100)
        >>> svi = SVI(bnn.model, bnn.guide, ProjectedSGD({"lr": 0.1}), loss=GateELBO())
    """

    @checked_arguments
    def __init__(
        self,
        optim_args: dict[str, Any],
        weights: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        weights_args: dict[str, Any] | None = None,
    ):
        if set(optim_args) != {"lr"}:
            found = ", ".join(map(str, optim_args)) or "nothing"
            raise TypeError(f"ProjectedSGD: optim_args must hold lr and nothing else, found {found}")
        super().__init__(weights, {"lr": 1e-3} if weights_args is None else weights_args)
        self.gate_args = optim_args
        ProjectedGateSGD([torch.zeros(1)], **optim_args)  # refuse bad arguments now, not at the first step

    def _get_optim(self, param: Any) -> torch.optim.Optimizer:
        if pyro.get_param_store().param_name(param) == "theta":
            return ProjectedGateSGD([param], **self.gate_args)
        return super()._get_optim(param)
