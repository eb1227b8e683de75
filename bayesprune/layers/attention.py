"""Attention of several heads with a gate for each of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real, whole
from bayesprune.errors import ConfigError
from bayesprune.layers.gate import INITIAL_THETA, Gate


class MultiheadAttention(nn.Module):
    """What ``torch.nn.MultiheadAttention`` computes (Vaswani et al. 2017, section 3.2.2), with a gate for each head.

    Queries, keys, values and the output have linear maps of their own, from which a head that is off is cut. Removal
    follows the heads where shapes are known: give `BayesianNet` an ``example_input``.

    Args:
        embed_dim: Number of features of queries and of the output.
        num_heads: Number of heads, which divides it.
        bias: Whether the maps have biases.
        kdim: Number of features of keys; those of queries if left out.
        vdim: Number of features of values; those of queries if left out.
        dropout: With what probability a weight of attention is 0 while training.
        batch_first: Whether examples are the first dimension, not the second.
        theta: Initial inclusion probability of every head.

    Examples:
        >>> import torch
        >>> from bayesprune.layers import MultiheadAttention
        >>> attention = MultiheadAttention(8, 2).eval()
        >>> x = torch.randn(3, 5, 8)
        >>> attention.gate.theta.data[:] = 0.0
        >>> bool((attention(x, x, x)[0] == attention.out_proj.bias).all())
        True

    Raises:
        ConfigError: for sizes that are no whole numbers from 1 on, or heads that do not divide the features.
    """

    @checked_arguments
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        dropout: float = 0.0,
        batch_first: bool = True,
        theta: float = INITIAL_THETA,
    ):
        super().__init__()
        embed_dim = whole("MultiheadAttention: embed_dim", embed_dim)
        keys = embed_dim if kdim is None else whole("MultiheadAttention: kdim", kdim)
        values = embed_dim if vdim is None else whole("MultiheadAttention: vdim", vdim)
        self.head_dim, rest = divmod(embed_dim, whole("MultiheadAttention: num_heads", num_heads))
        if rest or not self.head_dim:
            raise ConfigError(f"MultiheadAttention: {num_heads} heads do not divide {embed_dim} features")
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias)
        self.k_proj = nn.Linear(keys, embed_dim, bias)
        self.v_proj = nn.Linear(values, embed_dim, bias)
        self.gate = Gate(num_heads, theta=theta)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias)
        self.dropout = real("MultiheadAttention: dropout", dropout, 0, 1, "[]")
        self.batch_first = batch_first

    @classmethod
    def of(cls, attention: nn.MultiheadAttention, theta: float = INITIAL_THETA) -> MultiheadAttention:
        """One with the weights of torch's, which computes the same while all of its gates are on.

        Args:
            attention: Torch's.
            theta: Initial inclusion probability of every head.

        Raises:
            ConfigError: for anything else, or if it attends to more than it is given (``add_bias_kv``,
                ``add_zero_attn``).
        """
        if not isinstance(attention, nn.MultiheadAttention):
            kind = type(attention).__name__
            raise ConfigError(f"MultiheadAttention.of: attention must be a torch.nn.MultiheadAttention, got a {kind}")
        if attention.bias_k is not None or attention.add_zero_attn:
            raise ConfigError("MultiheadAttention: add_bias_kv and add_zero_attn add a step that no head can be cut of")
        sizes: dict[str, Any] = {name: getattr(attention, name) for name in ("kdim", "vdim", "dropout", "batch_first")}
        bias = attention.in_proj_bias is not None
        with torch.device("meta"):  # nothing is drawn, as other weights take the place of its own
            made = cls(attention.embed_dim, attention.num_heads, bias=bias, **sizes)
        weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
        if attention.in_proj_weight is not None:
            weights = [attention.in_proj_weight] * 3
        maps, size = [made.q_proj, made.k_proj, made.v_proj], attention.embed_dim
        for place, (linear, weight) in enumerate(zip(maps, weights, strict=True)):
            rows = slice(place * size, (place + 1) * size)
            linear.weight = _part(weight, rows if weight is attention.in_proj_weight else slice(None))
            if attention.in_proj_bias is not None:
                linear.bias = _part(attention.in_proj_bias, rows)
        made.out_proj.weight = _part(attention.out_proj.weight, slice(None))
        if bias:
            made.out_proj.bias = _part(attention.out_proj.bias, slice(None))
        made.gate = Gate(attention.num_heads, theta=theta).to(attention.out_proj.weight)
        return made.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        is_causal: bool = False,
        need_weights: bool = False,
    ) -> tuple[Tensor, None]:
        """Attention of queries to keys, and ``None`` in the place of its weights.

        Args:
            query: Shape ``(B, T, embed_dim)``, or ``(T, B, embed_dim)`` if examples are not first.
            key: Shape ``(B, S, kdim)``, or the like.
            value: Shape ``(B, S, vdim)``, or the like.
            mask: As ``scaled_dot_product_attention`` takes it, shape ``(T, S)``, ``(B, 1, T, S)`` or, for each head,
                ``(B, heads, T, S)``: whether a query attends to a key, bool, or what is added to its weight before the
                softmax. ``None`` for all.
            is_causal: Whether queries attend to no later keys, instead of a mask.
            need_weights: Accepted as torch's does; weights are never given.
        """
        given = [query, key, value] if self.batch_first else [x.transpose(0, 1) for x in (query, key, value)]
        q, k, v = (
            linear(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for linear, x in zip((self.q_proj, self.k_proj, self.v_proj), given, strict=True)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal)
        joined = self.out_proj(self.gate(mixed).transpose(1, 2).flatten(2))
        return (joined if self.batch_first else joined.transpose(0, 1)), None


def _part(parameter: Tensor, rows: slice) -> nn.Parameter:
    """A parameter of its own with some rows of another."""
    return nn.Parameter(parameter.detach()[rows].clone(), requires_grad=parameter.requires_grad)
