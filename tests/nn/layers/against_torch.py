"""Values and gradients of a layer against a function of PyTorch, whose images have their channels first."""

import jax.numpy as jnp
import numpy as np
import pytest

from brainstate_prob import ParamState, transform

TOLERANCE = {'rtol': 1e-5, 'atol': 1e-5}


def to_first(x):
    """Channels from the last place to the one behind the batch."""
    return np.moveaxis(np.asarray(x), -1, 1)


def to_last(x):
    return np.moveaxis(np.asarray(x), 1, -1)


def kernel_to_torch(w, transposed=False):
    """A kernel (places, in, out) as (out, in, places), or, transposed, as (in, out, places)."""
    first = (-2, -1) if transposed else (-1, -2)
    return np.moveaxis(np.asarray(w), first, (0, 1))


def compare(layer, x, theirs, move=(to_first, to_last), **params):
    """Output and gradients of ``sum(output * c)``, c random, agree to 1e-5.

    ``theirs(torch, x, **tensors)`` computes the same from PyTorch's tensors; ``params`` maps the entries of the
    layer's weight that it takes to (to torch's layout, and the same for the gradient).
    """
    torch = pytest.importorskip('torch')
    states = list(layer.states(ParamState).values())
    value = states[0].value if states else {}

    shape = transform.eval_shape(layer, x).shape
    c = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def weighed(x):
        y = layer(x)
        return jnp.sum(y * c), y

    (grads, gx), y = transform.jit(transform.grad(weighed, layer.states(ParamState), 0, has_aux=True))(jnp.asarray(x))
    move_in, move_out = move
    tensors = {k: torch.tensor(np.array(f(value[k])), requires_grad=True) for k, f in params.items()}
    tx = torch.tensor(np.array(move_in(x)), requires_grad=True)
    ty = theirs(torch, tx, **tensors)
    np.testing.assert_allclose(y, move_out(ty.detach().numpy()), **TOLERANCE)
    (ty * torch.tensor(np.array(move_in(c)))).sum().backward()
    np.testing.assert_allclose(gx, move_out(tx.grad.numpy()), **TOLERANCE)
    for name, f in params.items():
        (g,) = grads.values()
        np.testing.assert_allclose(f(g[name]), tensors[name].grad.numpy(), **TOLERANCE, err_msg=name)
