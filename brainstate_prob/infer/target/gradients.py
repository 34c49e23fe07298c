"""Messages about missing gradients: parameters read through step functions only, and while loops."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ['BY_WEIGHTS', 'WITHOUT_GRADIENTS', 'loop_message', 'stepped_messages']

WITHOUT_GRADIENTS = ('elliptical_slice', 'prior')  # the ways to fit, and draws of the prior, that need no gradient
# These need no gradient either: particles are weighted by the likelihood.
BY_WEIGHTS = (*WITHOUT_GRADIENTS, 'smc')


def stepped_messages(posterior: Any) -> list[str]:
    """Messages about parameters whose gradient is always zero though the likelihood depends on them."""
    return [
        f'The likelihood reads Param {name!r} only through steps (comparisons, rounding, whole numbers, '
        'stop_gradient), so that its gradient is zero everywhere: gradient-based methods leave it at its start or '
        'draw it from its prior, and report that as a result. Make the step smooth (jax.nn.sigmoid((x - '
        f'{name}) / width) in place of x < {name}), sum the likelihood over its values, or fit the other Params for '
        f'each value of it on a grid (nn.Const). infer.elliptical_slice uses no gradients.'
        for name in posterior.inspection.without_gradient
    ]


def loop_message(posterior: Any) -> str | None:
    """A message if a while loop of the model has no reverse-mode gradient; None otherwise."""
    if not posterior.inspection.has_loop:
        return None
    density, data = posterior.density, posterior.data

    def look() -> bool:
        try:
            jax.eval_shape(jax.grad(density.log_density), posterior.theta, data)
        except ValueError as error:
            return 'Reverse-mode differentiation' in str(error)
        return False

    leaves, tree = jax.tree.flatten(data)
    shapes = tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)
    if not density.kept((loop_message, tree, shapes), look):
        return None
    return (
        'The model has a loop whose number of steps is not fixed (jax.lax.while_loop, or fori_loop with computed '
        'bounds), which has no gradient, and parameters pass through it. Give it a fixed number of steps '
        '(jax.lax.fori_loop with plain bounds, jax.lax.scan, transform.for_loop), or a derivative rule '
        '(jax.custom_vjp). infer.elliptical_slice uses no gradients.'
    )
