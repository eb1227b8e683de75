"""Branches compiled one by one, so that which of them run may change with every batch."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from bayesprune.infer.plain import PlainNet
from bayesprune.layers import Residual
from bayesprune.ops import draws


class BranchCompiler:
    """Lets every `layers.Residual` compute its body through ``torch.compile`` in passes with gradient.

    Bodies of one form and one shape of input share their code. Batches as large as the first are compiled for; others
    (the last of an epoch) are computed as written, which costs less than compiling for them. So are bodies with
    dropout or Normal weights: compiled, they would not repeat their masks and noise in the further passes of an
    estimator.

    Attributes:
        failed: Whether compiling has failed; all branches are then computed as written.
        rows: Examples of the first batch; 0 before it.
    """

    def __init__(self) -> None:
        self.failed = False
        self.rows = 0

    def prepare(self, net: nn.Module) -> None:
        """Set ``run`` of every residual block of ``net``, in place; called again for a smaller network.

        A `PlainNet` without gates is compiled as a whole: it has one pass a step.
        """
        if self.failed:
            return
        blocks = [module for module in net.modules() if isinstance(module, Residual) and not _draws(module.body)]
        # one code object serves the bodies of all blocks: at worst each has a form of its own, before and after cutting
        config = torch._dynamo.config
        config.cache_size_limit = max(config.cache_size_limit, 2 * len(blocks))
        try:
            if isinstance(net, PlainNet) and not net.num_gates:
                net.run = CompiledBranch(net.net, self)
                return
            for block in blocks:
                block.run = CompiledBranch(block.body, self)
        except RuntimeError as error:  # this system or version of Python has no torch.compile
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Compute everything as written from now on, and say so once."""
        if not self.failed:
            self.failed = True
            reason = " ".join(str(error).split())[:300]
            warnings.warn(f"compilation failed; branches are computed uncompiled, more slowly: {reason}", stacklevel=2)


def _draws(body: nn.Module) -> bool:
    """Whether a body draws random numbers: compiled, it would draw others than the passes that repeat it."""
    return any(map(draws, body.modules()))


class CompiledBranch:
    """A body as ``torch.compile`` makes it, or as written where that is cheaper or has failed.

    Args:
        body: The branch. Its parameters are used, not copied.
        compiler: What all branches of a run share.
    """

    def __init__(self, body: nn.Module, compiler: BranchCompiler):
        self.body, self.compiler = body, compiler
        self.compiled = torch.compile(body, dynamic=False)

    def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
        """The branch.

        Args:
            x: Its input, shape ``(B, ...)``.
            others: What it is given besides.
        """
        self.compiler.rows = self.compiler.rows or len(x)
        if self.compiler.failed or len(x) != self.compiler.rows:
            return self.body(x, *others)
        try:
            return self.compiled(x, *others)
        except torch._dynamo.exc.TorchDynamoException as error:
            self.compiler.give_up(error)
            return self.body(x, *others)
