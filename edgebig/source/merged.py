"""Takes a decoder apart that Optimum merged: one graph for the first token and one for all that follow.

Optimum's ``merge_decoders`` puts ``decoder_model.onnx`` and ``decoder_with_past_model.onnx`` into the branches of one
``If`` on the input ``use_cache_branch``. TensorRT builds neither branch then, since it needs to know every shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgebig.graph import Graph
from edgebig.graph.values import constant
from edgebig.source.source import SourcePart
from edgebig.spec import TensorSpec

SWITCH = "use_cache_branch"
_PARTS = (("decoder_model", False, "else_branch"), ("decoder_with_past_model", True, "then_branch"))


def split_merged(graph: Graph, path: Path) -> tuple[SourcePart, ...]:
    """The parts of a merged decoder, named as Optimum names them when it does not merge; none of any other graph.

    Inputs that only the other branch reads are left out, and outputs that a branch answers with a constant: the decoder
    with past does not compute the encoder's keys and values anew, and Optimum's merge fills them with empty tensors.

    Args:
        graph: as it was read; unchanged.
        path: its file, which reference runs use: both parts are compared with it.
    """
    if _switched(graph) is None:
        return ()
    return tuple(_part(graph.clone(), path, *names) for names in _PARTS)


def _switched(graph: Graph) -> ir.Node | None:
    """The ``If`` that the input ``use_cache_branch`` decides, where that is all that it does."""
    switch = next((v for v in graph.model.graph.inputs if v.name == SWITCH), None)
    if switch is None or switch.dtype != ir.DataType.BOOL:
        return None
    uses = list(switch.uses())
    is_decided = len(uses) == 1 and uses[0][0].op_type == "If" and uses[0][0].graph is graph.model.graph
    return uses[0][0] if is_decided else None


def _part(graph: Graph, path: Path, name: str, value: bool, branch: str) -> SourcePart:
    node = _switched(graph)
    if node is None:
        raise ValueError(f"{path} holds no decoder that was merged")
    before = graph.inputs
    _inline(graph, node, node.attributes[branch].as_graph())
    main = graph.model.graph
    for output in [v for v in main.outputs if _is_constant(v)]:
        main.outputs.remove(output)
    _drop_unused(graph)
    graph.name = name
    left = {spec.name for spec in graph.inputs}
    given = {spec.name: _anything(spec) for spec in before if spec.name not in left}
    given[SWITCH] = np.array([value])
    return SourcePart(name, graph, path, given=given, answers=tuple(spec.name for spec in graph.outputs))


def _inline(graph: Graph, node: ir.Node, branch: ir.Graph) -> None:
    """Puts a branch's nodes in the place of its ``If``."""
    main = graph.model.graph
    weights = list(branch.initializers.values())
    branch.initializers.clear()
    for value in weights:
        # merging leaves small tensors in the branches, under names that the main graph may have too
        if value.name in main.initializers:
            value.name = f"{value.name}/{branch.name}"
        main.register_initializer(value)
    nodes, results = list(branch), list(branch.outputs)
    branch.outputs.clear()
    branch.remove(nodes)
    main.insert_before(node, nodes)
    for old, new in zip(node.outputs, results, strict=True):
        name = old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name, new.name = f"{name}/merged", name
    _forget(node)
    main.remove(node, safe=True)


def _forget(node: ir.Node) -> None:
    """What is left in the branches of a node reads nothing any more: readers are counted later."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in list(ir.traversal.RecursiveGraphIterator(attribute.as_graph())):
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return constant(value) is not None or (producer is not None and producer.op_type == "Constant")


def _drop_unused(graph: Graph) -> None:
    main = graph.model.graph
    needed = {id(v) for v in main.outputs}
    for node in reversed(list(main)):
        if any(id(v) in needed for v in node.outputs):
            needed |= {id(v) for v in node.inputs if v is not None}
            inner = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
            for body in inner:
                needed |= {id(v) for n in ir.traversal.RecursiveGraphIterator(body) for v in n.inputs if v is not None}
                needed |= {id(v) for v in body.outputs}
        else:
            main.remove(node, safe=True)
    for value in [v for v in main.inputs if id(v) not in needed]:
        main.inputs.remove(value)
    for name in [n for n, v in main.initializers.items() if id(v) not in needed]:
        del main.initializers[name]


def _anything(spec: TensorSpec) -> np.ndarray[Any, Any]:
    """A value for an input that the branch does not read."""
    return np.zeros([d if isinstance(d, int) else 1 for d in spec.shape], spec.dtype)
