"""Operations through which nothing can be followed: structures before them stay, but model files may hold them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bayesprune.ops.registry import Gives, Memory, Operation, never, register

LP_POOL = ("norm_type", "kernel_size", "stride", "ceil_mode")
ATTENTION = {
    **{name: name for name in ("embed_dim", "num_heads", "dropout", "add_zero_attn", "kdim", "vdim", "batch_first")},
    "bias": "in_proj_bias",
    "add_bias_kv": "bias_k",
}
TRANSFORMER = {
    "d_model": "self_attn.embed_dim",
    "nhead": "self_attn.num_heads",
    "dim_feedforward": "linear1.out_features",
    "dropout": "dropout.p",
    "activation": "activation",
    "layer_norm_eps": "norm1.eps",
    "batch_first": "self_attn.batch_first",
    "norm_first": "norm_first",
    "bias": "linear1.bias",
}


def _always(module: nn.Module) -> bool:
    return True


def _drops(module: Any) -> bool:
    """Whether a layer has dropout within."""
    return bool(module.dropout > 0)


def _layers(
    *modules: type[nn.Module], arguments: Any, gives: Gives = "tensor", random: Callable[[Any], bool] = never
) -> None:
    """Register layers, each as an operation of its own.

    Args:
        modules: Their classes.
        arguments: Constructor arguments of all of them.
        gives: What a call of them gives.
        random: Whether one of them draws random numbers in training mode.
    """
    for module in modules:
        register(Operation(name=module.__name__, modules=(module,), arguments=arguments, gives=gives, random=random))


def _calls(names: str, *owners: Any, gives: Gives = "tensor", memory: Memory = "") -> None:
    """Register functions and methods, each name as an operation of its own.

    Args:
        names: Their names, separated by spaces.
        owners: The modules that have functions of all of these names; ``Tensor`` for methods.
        gives: What a call of them gives.
        memory: Where that lies.
    """
    for name in names.split():
        functions = tuple({id(f): f for f in (getattr(o, name) for o in owners if o is not Tensor)}.values())
        methods = (name,) if Tensor in owners else ()
        register(Operation(name=name, functions=functions, methods=methods, memory=memory, files=True, gives=gives))


def _chosen(node: fx.Node, module: nn.Module | None) -> Any:
    """``where`` of a condition alone gives the places where it holds.

    Args:
        node: The call.
        module: Not used: a function is called.
    """
    return ["tensor"] if len(node.args) + len(node.kwargs) == 1 else "tensor"


_layers(nn.Bilinear, arguments=("in1_features", "in2_features", "out_features", "bias"))
_layers(nn.MultiheadAttention, arguments=ATTENTION, gives=["tensor"], random=_drops)
_layers(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, arguments=TRANSFORMER)
_layers(nn.LPPool1d, nn.LPPool2d, arguments=LP_POOL)
_layers(nn.Fold, arguments=("output_size", "kernel_size", "dilation", "padding", "stride"))
_layers(nn.Unfold, arguments=("kernel_size", "dilation", "padding", "stride"))
_layers(nn.CosineSimilarity, arguments=("dim", "eps"))
_layers(nn.PairwiseDistance, arguments=("norm", "eps", "keepdim"))
_layers(nn.RReLU, arguments=("lower", "upper", "inplace"), random=_always)
_layers(nn.Softmax2d, arguments=())

_calls("and_ floordiv invert mod or_", operator)
_calls("eq ge gt le lt ne", operator, torch, Tensor)
_calls(
    "affine_grid alpha_dropout embedding feature_alpha_dropout fold grid_sample linear local_response_norm lp_pool1d "
    "lp_pool2d one_hot pairwise_distance rms_norm rrelu softmin",
    F,
)
_calls(
    "batch_norm bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d cosine_similarity "
    "group_norm instance_norm layer_norm prelu",
    F,
    torch,
)
_calls("log_softmax", F, torch, Tensor)
_calls(
    "addcdiv addcmul arange atan2 cdist dot fmod full full_like isinf isnan logical_xor mv ones ones_like",
    torch,
)
_calls(
    "addmm argmax argmin argsort baddbmm cumprod cumsum diff floor_divide gather index_select lerp logical_and "
    "logical_not logical_or logsumexp mm norm outer prod remainder std tril triu true_divide "
    "var",
    torch,
    Tensor,
)
_calls("sort topk", torch, Tensor, gives=["tensor"])
_calls("meshgrid", torch, gives=["tensor"], memory="view")
_calls("where", torch, Tensor, gives=_chosen)
_calls("all any", Tensor)
_calls("bool int long type_as", Tensor, memory="view")
_calls("ndimension numel", Tensor, gives="number")
_calls(
    "add_ div_ masked_fill_ mul_ squeeze_ sub_ unsqueeze_ zero_",
    Tensor,
)
register(Operation(name="unfold", functions=(F.unfold,), files=True))
