"""JAX transforms that know State: jit, gradients, mapping, loops, branches. All nest in each other."""

from brainstate_prob.transform.checkpoint import checkpoint, remat
from brainstate_prob.transform.conditions import cond, ifelse, switch
from brainstate_prob.transform.gradient_transform import GradientTransform, Wrt
from brainstate_prob.transform.gradients import fwd_grad, grad, hessian, jacfwd, jacobian, jacrev, vector_grad
from brainstate_prob.transform.inspection import StateFinder, eval_shape, make_jaxpr
from brainstate_prob.transform.jit import JitFunction, jit
from brainstate_prob.transform.loops import for_loop, scan, while_loop
from brainstate_prob.transform.mapping import vmap, vmap2, vmap2_new_states, vmap_new_states
from brainstate_prob.transform.pmap import pmap2, pmap2_new_states
from brainstate_prob.transform.progress import ProgressBar
from brainstate_prob.transform.vjp import jvp, vjp

__all__ = [
    'GradientTransform',
    'JitFunction',
    'ProgressBar',
    'StateFinder',
    'Wrt',
    'checkpoint',
    'cond',
    'eval_shape',
    'for_loop',
    'fwd_grad',
    'grad',
    'hessian',
    'ifelse',
    'jacfwd',
    'jacobian',
    'jacrev',
    'jit',
    'jvp',
    'make_jaxpr',
    'pmap2',
    'pmap2_new_states',
    'remat',
    'scan',
    'switch',
    'vector_grad',
    'vjp',
    'vmap',
    'vmap2',
    'vmap2_new_states',
    'vmap_new_states',
    'while_loop',
]
