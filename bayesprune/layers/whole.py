"""A module that stays whole."""

from __future__ import annotations

from typing import Any

from torch import nn

from bayesprune.arguments import checked_arguments


class Whole(nn.Module):
    """A module that nothing is followed through, so that it may do what cannot be traced; all before it stays.

    Args:
        whole: The module.

    Attributes:
        reason: Why it stays so, if something stopped `convert` from following it.

    Examples:
        >>> import torch
        >>> Whole(torch.nn.ReLU())(torch.tensor([-1.0, 2.0])).tolist()
        [0.0, 2.0]

    Raises:
        ConfigError: for what is no module.
    """

    reason = ""

    @checked_arguments
    def __init__(self, whole: nn.Module):
        super().__init__()
        self.whole = whole

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives.

        Args:
            args: What it is given by place.
            kwargs: What it is given by name.
        """
        return self.whole(*args, **kwargs)
