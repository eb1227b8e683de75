"""Multiply-adds of whatever runs within a context: torch's own counter, made to see what hides in fused kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.backends import cudnn, mha, mkldnn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bayesprune.errors import TraceError

Shape = Sequence[int]
aten = torch.ops.aten


def _first(shape: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(shape)


def _second(_: Any, shape: Shape, *__: Any, **___: Any) -> int:
    return 2 * math.prod(shape)


def _nothing(*_: Any, **__: Any) -> int:
    """A norm of a vector is no product of matrices, whatever torch's name for it."""
    return 0


def _batches(_: Any, a: Shape, b: Shape, **__: Any) -> int:
    return 2 * math.prod(a) * b[-1]


def _trilinear(a: Shape, b: Shape, c: Shape, *expand: Any, out_shape: Any = None, **_: Any) -> int:
    """Σ over one or more dimensions of a·b·c, each expanded by the dimensions that it lacks."""
    sizes: list[int] = list(a)
    for shape, added in zip((a, b, c), expand, strict=False):
        full = list(shape)
        for dim in sorted(added):
            full.insert(dim, 1)
        sizes = full if shape is a else [max(x, y) for x, y in zip(sizes, full, strict=True)]
    return 2 * math.prod(sizes)


FORMULAS: dict[Any, Callable[..., int]] = {  # flops, two a multiply-add, of what torch's counter leaves out
    aten.mv: _first,
    aten.dot: _first,
    aten.vdot: _first,
    aten.addmv: _second,
    aten.addbmm: _batches,
    aten._trilinear: _trilinear,
    aten.linalg_vector_norm: _nothing,
}
UNCOUNTED = (
    "linalg_", "_linalg_", "fft_", "_fft_", "_cdist", "cholesky", "_native_multi_head", "_transformer_encoder",
    "mkldnn_", "_cudnn_rnn", "miopen_", "_weight_int", "_sparse_", "_convert_weight", "conv_tbc", "_addmm_activation",
    "_int_mm", "_triton", "_fused_sdp", "_grouped_mm",
)  # fmt: skip
"""What names of kernels begin with that compute products and have no formula here."""


class _Refusal(TorchDispatchMode):
    """Refuses kernels of which nobody knows the multiply-adds."""

    def __init__(self, known: Any):
        super().__init__()
        self.known = known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``, if it may be counted."""
        out = func(*args, **(kwargs or {}))
        space, _, name = str(func._overloadpacket).partition(".")
        known = func._overloadpacket in self.known or not any(isinstance(leaf, Tensor) for leaf in tree_leaves(out))
        if not known and (space not in ("aten", "prim", "prims") or name.startswith(UNCOUNTED)):
            raise TraceError(
                f"the multiply-adds of {space}.{name} cannot be counted; leave macs and example_input out, or compute "
                "it with matrix products and convolutions"
            )
        return out


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count flops, two a multiply-add, of all matrix products and convolutions within the context.

    Attention and recurrent layers take their plain paths meanwhile, which are made of matrix products.

    Raises:
        TraceError: for a kernel whose multiply-adds nobody knows.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    fast = mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(mha.set_fastpath_enabled, fast)
        mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        for backend in (mkldnn, cudnn):  # whose recurrent layers are one kernel each
            stack.callback(setattr, backend, "enabled", backend.enabled)  # type: ignore[attr-defined]
            backend.enabled = False  # type: ignore[attr-defined]
        stack.enter_context(_Refusal(counter.flop_registry))
        yield stack.enter_context(counter)
