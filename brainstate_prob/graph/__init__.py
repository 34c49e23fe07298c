"""The object graph and its pytree form: walk, flatten, split, merge and clone, preserving shared references."""

from brainstate_prob.graph.containers import FlattedDict, NestedDict, TreefyState
from brainstate_prob.graph.treefy import (
    GraphDef,
    clone,
    flatten,
    graphdef,
    pop_states,
    treefy_merge,
    treefy_split,
    treefy_states,
    unflatten,
    update_states,
)
from brainstate_prob.graph.walk import Node, nodes, path_of, states

__all__ = [
    'FlattedDict',
    'GraphDef',
    'NestedDict',
    'Node',
    'TreefyState',
    'clone',
    'flatten',
    'graphdef',
    'nodes',
    'path_of',
    'pop_states',
    'states',
    'treefy_merge',
    'treefy_split',
    'treefy_states',
    'unflatten',
    'update_states',
]
