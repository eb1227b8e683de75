"""Operations that only move and copy entries: views, permutations, parts, copies and shuffles.

Where shapes are known they need no rules: what a call does is seen by running it, see `ops.numbers`. A record that says
``moves=True`` is enough. Records with rules of their own say what holds where no shape is known. Calls that give
several tensors, or spread entries over several dimensions, wait for those that read them, and are run with these.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from bayesprune.ops.call import NEEDS_SHAPES, Call, name_of, tensors_read
from bayesprune.ops.features import Features, Flow, Step
from bayesprune.ops.numbers import Numbers
from bayesprune.ops.registry import Operation, operation_of, register
from bayesprune.ops.sizes import is_shape


def follow(call: Call, rule: Callable[[], Step]) -> Step:
    """What a call that only moves entries does to them: what the rule of its operation says, or running it does.

    Args:
        call: The call.
        rule: Gives what can be said without running it.
    """
    if not call.several:
        return rule()
    read = tensors_read(call.node, call.known, call.shapes, call.following.waiting)
    if all(call.known[tensor] is None for tensor in read) or call.node in call.following.waiting:
        return Step()
    if call.node not in call.shapes:  # it gives several tensors; whoever picks from them is followed from here on
        followed = call.several() and _read_by_moves(call.node)
        return Step() if followed else Step(pins=read, reason=call.wall().reason)
    alone = call.following.waiting.isdisjoint(call.node.all_input_nodes)
    step = rule() if alone else Step()
    if step.out is not None and step.out.layout != "plain" and (step.out.rank or 0) > 2:
        return _written_out(step, call.shapes[call.node])
    shapes = call.several() if step.out is None and all(tensor in call.shapes for tensor in read) else {}
    if not shapes:
        return step
    said = step.reason not in ("", call.wall().reason) and NEEDS_SHAPES not in step.reason
    numbers, moved = Numbers(call, shapes), call.following.moved
    if call.node not in moved and _read_by_moves(call.node) and numbers.spread():
        call.following.waiting.add(call.node)
        return Step()
    if call.node not in moved:
        form, forms = numbers.form(), call.following.forms
        if form not in forms:
            forms[form] = numbers.with_fewer() or numbers.wanted()
        moved[call.node] = forms[form]
    found = moved[call.node]
    if not isinstance(found, list):
        return numbers.step(*found)
    wanted = [list(numbers.sources)[place] for place in found]
    name = name_of([call.node, *(node for node in numbers.made() if node in call.following.waiting)][-1])
    reason = f"reaches {name}, which mixes entries, or would do something else to fewer (sizes written in forward)"
    return Step(pins=list(dict.fromkeys([*wanted, *call.node.all_input_nodes])), reason=step.reason if said else reason)


def _read_by_moves(node: fx.Node) -> bool:
    """Whether nothing but calls that move entries reads what a call gives."""
    return bool(node.users) and all(operation_of(user).moves and not is_shape(user) for user in node.users)


def _written_out(step: Step, shape: torch.Size) -> Step:
    """The step of a call that flattens some dimensions, with an entry for every position of its result."""
    x = step.out
    assert x is not None
    index = x.entries(shape[x.axis], "a flattened tensor")
    flows = [Flow(flow.node, flow.src[index], torch.arange(len(index))) for flow in step.flows]
    return Step(Features(x.ids[index], x.value[index], x.axis, x.rank), flows=flows)


VIEWS = (
    "broadcast_to", "channel_shuffle", "chunk", "diagonal", "expand", "expand_as", "moveaxis", "movedim", "narrow",
    "ravel", "reshape_as", "select", "split", "t", "tensor_split", "unbind", "unflatten", "unfold", "view_as",
)  # fmt: skip
COPIES = (
    "column_stack", "dstack", "flip", "fliplr", "flipud", "hstack", "repeat", "repeat_interleave", "roll", "rot90",
    "stack", "tile", "vstack",
)  # fmt: skip
PARTS = ("chunk", "split", "tensor_split", "unbind")
SIZES = {
    "broadcast_to": slice(1, None), "expand": slice(1, None), "narrow": slice(2, 4), "split": slice(1, 2),
    "tensor_split": slice(1, 2), "unflatten": slice(2, 3),
}  # fmt: skip
for _name in (*VIEWS, *COPIES):
    register(
        Operation(
            name=_name.replace("_", " "),
            functions=(getattr(torch, _name),) if hasattr(torch, _name) else (),
            methods=(_name,) if hasattr(Tensor, _name) else (),
            moves=True,
            sizes=SIZES.get(_name),
            memory="view" if _name in VIEWS else "own",
            gives=["tensor"] if _name in PARTS else "tensor",
            files=True,
        )
    )
register(
    Operation(
        name="Unflatten",
        modules=(nn.Unflatten,),
        moves=True,
        memory="view",
        arguments=("dim", "unflattened_size"),
    )
)
register(Operation(name="ChannelShuffle", modules=(nn.ChannelShuffle,), moves=True, arguments=("groups",)))
