"""Whether the trees of a TreeEnsemble are trees: a branch that leads back would keep the runtime walking for ever."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillery.errors import HostileFile

_LISTS = ("nodes_treeids", "nodes_nodeids", "nodes_truenodeids", "nodes_falsenodeids", "nodes_modes")
_LEAF = b"LEAF"


def require_sound(node: Any) -> None:
    """Look at a TreeEnsembleClassifier, -Regressor or TreeEnsemble of `ai.onnx.ml`.

    Raises:
        HostileFile: its lists disagree in length, or its branches lead nowhere, back, or twice to one node.
    """
    told = {each.name: each for each in node.attribute}
    if node.op_type == "TreeEnsemble":
        return _require_flat(told)
    if any(name not in told for name in _LISTS):
        raise _unsound("a list of its nodes is missing")
    trees, nodes, yes, no = (np.array(told[name].ints, dtype=np.int64) for name in _LISTS[:4])
    leaves = np.array([each == _LEAF for each in told["nodes_modes"].strings], dtype=bool)
    if not len(trees) == len(nodes) == len(yes) == len(no) == len(leaves) or not len(trees):
        raise _unsound("the lists of its nodes differ in length")
    keys = list(zip(trees.tolist(), nodes.tolist(), strict=True))
    places = {key: place for place, key in enumerate(keys)}
    if len(places) != len(keys):
        raise _unsound("two of its nodes have one number")
    children = np.full((len(keys), 2), -1, dtype=np.int64)
    for side, ids in enumerate((yes.tolist(), no.tolist())):
        for place in np.flatnonzero(~leaves).tolist():
            child = places.get((keys[place][0], ids[place]))
            if child is None:
                raise _unsound("a branch leads nowhere")
            children[place, side] = child
    _require_forest(children)
    return None


def _require_flat(told: Any) -> None:
    """The form of opset 5: indices into the lists of nodes, or of leaves where a flag says so."""
    wanted = ("nodes_truenodeids", "nodes_falsenodeids", "nodes_trueleafs", "nodes_falseleafs", "leaf_weights")
    if any(name not in told for name in wanted):
        raise _unsound("a list of its nodes is missing")
    yes, no, yes_leaf, no_leaf = (np.array(told[name].ints, dtype=np.int64) for name in wanted[:4])
    count = len(yes)
    if not count == len(no) == len(yes_leaf) == len(no_leaf) or not count:
        raise _unsound("the lists of its nodes differ in length")
    leaves = int(np.prod(told["leaf_weights"].t.dims))
    for ids, leaf in ((yes, yes_leaf), (no, no_leaf)):
        most = np.where(leaf != 0, leaves, count)
        if bool(((ids < 0) | (ids >= most)).any()):
            raise _unsound("a branch leads nowhere")
    roots = np.array(told["tree_roots"].ints if "tree_roots" in told else [], dtype=np.int64)
    if bool(((roots < 0) | (roots >= count)).any()):
        raise _unsound("a tree begins nowhere")
    _require_forest(np.stack((np.where(yes_leaf != 0, -1, yes), np.where(no_leaf != 0, -1, no)), axis=1))


def _require_forest(children: NDArray[np.int64]) -> None:
    """`children` [N, 2], -1 for none: every node has one parent at most, and can be reached from one that has none.

    A node whose two branches lead to one child counts once, as a split that decides nothing does.
    """
    both = children[:, 0] == children[:, 1]
    edges = np.concatenate((children[:, 0], children[~both, 1]))
    parents = np.bincount(edges[edges >= 0], minlength=len(children))
    if bool((parents > 1).any()):
        raise _unsound("two branches lead to one node")
    reached = np.flatnonzero(parents == 0)
    seen = len(reached)
    while len(reached):
        below: Sequence[int] = children[reached][:, 0].tolist() + children[reached[~both[reached]]][:, 1].tolist()
        reached = np.array([each for each in below if each >= 0], dtype=np.int64)
        seen += len(reached)
    if seen != len(children):
        raise _unsound("its branches lead back")


def _unsound(why: str) -> HostileFile:
    return HostileFile(
        f"The ONNX graph is not run: in an ensemble of trees, {why}.",
        hint="Export the trees anew, with skl2onnx.",
        pointer="/uploads",
    )
