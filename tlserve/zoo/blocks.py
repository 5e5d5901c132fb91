"""A network as an ordered list of blocks, from the stem to the head.

The rule. The network's children are read in their order, which is that of the forward pass;
containers that hold the body or the end of a network are opened. A *stage* (a module with several
layers of weights) is a block. A *layer* (one with a single one) leads into the stage after it and
belongs to that: the stem is the layers before the first stage, a patch merging belongs to the stage
that follows. Layers after the last stage are blocks of their own. Embeddings of positions belong to
the stem, for several stages may use one. Normalisation, activations and pooling belong to the block
before them. What changes with the number of classes is the head, with the dropout right before it.

The exceptions are networks of plain layers, whose stages are not modules: there a block ends with
each max-pooling.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_OPENED = frozenset(
    {"features", "layers", "blocks", "stages", "trunk_output", "encoder", "classifier", "heads"}
    | {"head", "body", "dense_stages", "levels", "network", "transformers"}
)
"""Names of containers that are not one block but hold several."""

_EMBEDDING = re.compile(r"pos_embed|pos_block|shared_rel_pos|crpe\d")
"""Names of modules that embed positions."""

_ENDED_BY_POOLING = frozenset({"AlexNet", "GoogLeNet", "SqueezeNet", "VGG"})
"""Classes of networks whose stages are runs of layers up to a pooling."""

_NORMALISATION = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)

Kind = Literal["stage", "layer", "joins", "pooling", "embedding", "head"]


@dataclass(frozen=True)
class Block:
    """A part of a network that is frozen or trained as a whole.

    Attributes:
        name: ``stem``, ``head``, or the path of its first module.
        modules: The paths of its modules, in the order of the forward pass.
        parameters: The names of its parameters in ``state_dict``.
    """

    name: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...]


def ordered_blocks(model: nn.Module, head: tuple[str, ...]) -> tuple[Block, ...]:
    """List the blocks of a network.

    Args:
        model: The network, on any device.
        head: The names of the head's parameters.

    Returns:
        The blocks from stem to head; every parameter is in exactly one.
    """
    by_pooling = type(model).__name__ in _ENDED_BY_POOLING
    body: list[list[tuple[str, nn.Module]]] = [[]]
    end: list[tuple[str, nn.Module]] = []
    in_stem, leads, pooled = True, False, False
    for path, module in _units(model, "", head):
        kind = _kind(path, module, head)
        if kind == "embedding":
            body[0].append((path, module))
            continue
        if kind == "head" or (end and kind in ("joins", "pooling")):
            end.append((path, module))
            continue
        if kind == "pooling":
            pooled = True
        elif kind != "joins":
            by_rule = not leads if kind == "stage" else not in_stem
            if body[-1] and (pooled if by_pooling else by_rule):
                body.append([])
            # A layer before the first stage is the stem's; a later one leads into what follows.
            in_stem = in_stem and kind == "layer"
            leads = kind == "layer" and not in_stem
            pooled = False
        body[-1].append((path, module))
    while body[-1] and isinstance(body[-1][-1][1], nn.Dropout):
        end.insert(0, body[-1].pop())
    return _named(model, [[path for path, _ in group] for group in (*body, end)])


def _units(model: nn.Module, prefix: str, head: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if name in _OPENED and any(True for _ in child.children()):
            yield from _units(child, f"{path}.", head)
        else:
            yield path, child


def _kind(path: str, module: nn.Module, head: tuple[str, ...]) -> Kind:
    if any(name.startswith(f"{path}.") for name in head):
        return "head"
    if _EMBEDDING.fullmatch(path):
        return "embedding"
    if isinstance(module, nn.MaxPool2d):
        return "pooling"
    layers = [
        m
        for m in module.modules()
        if any(True for _ in m.parameters(recurse=False)) and not isinstance(m, _NORMALISATION)
    ]
    if not layers:
        return "joins"
    return "layer" if len(layers) == 1 else "stage"


def _named(model: nn.Module, groups: list[list[str]]) -> tuple[Block, ...]:
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    owned = [
        [n for n in names if any(n.startswith(f"{path}.") for path in group)] for group in groups
    ]
    # Parameters of an opened container itself, such as position embeddings, act on the input.
    taken = {n for part in owned for n in part}
    owned[0] = [n for n in names if n not in taken or n in set(owned[0])]
    labels = ["stem", *(group[0] for group in groups[1:-1]), "head"]
    return tuple(
        Block(label, tuple(group), tuple(part))
        for label, group, part in zip(labels, groups, owned, strict=True)
    )
