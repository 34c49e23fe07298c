"""JAX transforms that know State: jit, gradients, mapping, loops, branches. All nest in each other."""
from brainstate_prob.transform.finder import StateFinder
from brainstate_prob.transform.grad import fwd_grad, grad, hessian, jacfwd, jacobian, jacrev, vector_grad
from brainstate_prob.transform.gradient import GradientTransform, Wrt
from brainstate_prob.transform.jit import JitFunction, jit

__all__ = [
    'GradientTransform', 'JitFunction', 'StateFinder', 'Wrt', 'fwd_grad', 'grad', 'hessian', 'jacfwd', 'jacobian',
    'jacrev', 'jit', 'vector_grad',
]
