"""A network cut in two: what is frozen below, and what is trained above.

The frozen part gives the same for the same image each time, so its results can be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from tlserve.errors import TlserveError
from tlserve.zoo.blocks import Block


class CannotSplitError(TlserveError):
    """The network's computation cannot be followed, or is not cut between tensors."""


@dataclass(frozen=True)
class Split:
    """The two parts; they share their modules and parameters with the network.

    Attributes:
        frozen: From images to a tuple of tensors, each with the batch first.
        trained: From those tensors to what the network gives.
    """

    frozen: fx.GraphModule
    trained: fx.GraphModule


def split(model: nn.Module, blocks: Sequence[Block], opened: int) -> Split:
    """Cut a network below its last ``opened`` blocks.

    The network is followed in the mode that it is in: with auxiliary heads in training mode,
    without them in evaluation mode. Modules that blocks consist of are not looked into.

    Args:
        model: The network.
        blocks: Its blocks, from stem to head.
        opened: How many of the last blocks are trained.

    Raises:
        CannotSplitError: Its computation depends on values.
    """
    units = frozenset(path for block in blocks for path in block.modules)
    trained = blocks[len(blocks) - opened :]
    try:
        graph = _Tracer(units).trace(model)
    except Exception as error:
        # Python code is run with stand-ins for its values, and may fail in any way.
        raise CannotSplitError(
            f"The computation of {type(model).__name__} cannot be followed: "
            f"{' '.join(str(error).split())}"
        ) from error
    modules = tuple(path for block in trained for path in block.modules)
    parameters = frozenset(name for block in trained for name in block.parameters)
    above = _depending(graph, modules, parameters)
    return _cut(model, graph, above)


class _Tracer(fx.Tracer):
    def __init__(self, units: frozenset[str]) -> None:
        super().__init__()
        self._units = units

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf: bool = super().is_leaf_module(m, module_qualified_name)
        return leaf or module_qualified_name in self._units


def _depending(
    graph: fx.Graph, modules: tuple[str, ...], parameters: frozenset[str]
) -> set[fx.Node]:
    """Find the nodes that use what is trained, directly or through others."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        target = str(node.target)
        own = (node.op == "get_attr" and target in parameters) or (
            node.op == "call_module"
            and any(target == path or target.startswith(f"{path}.") for path in modules)
        )
        if own or node.op == "output" or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _cut(model: nn.Module, graph: fx.Graph, above: set[fx.Node]) -> Split:
    border = [
        node
        for node in graph.nodes
        if node not in above and any(user in above for user in node.users)
    ]
    lower, upper = fx.Graph(), fx.Graph()
    below: dict[fx.Node, fx.Node] = {}
    copies = {node: upper.placeholder(node.name) for node in border}
    for node in graph.nodes:
        if node not in above:
            below[node] = lower.node_copy(node, below.__getitem__)
        else:
            copies[node] = upper.node_copy(node, copies.__getitem__)
    lower.output(tuple(below[node] for node in border))
    return Split(fx.GraphModule(model, lower), fx.GraphModule(model, upper))
