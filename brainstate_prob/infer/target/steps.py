"""Parameters that the likelihood reads through steps alone: of a gradient that is zero everywhere."""

from __future__ import annotations

from typing import Any

__all__ = ['WITHOUT_GRADIENTS', 'stepped_messages']

WITHOUT_GRADIENTS = ('elliptical_slice', 'prior')  # ways to fit, and what is no fit


def stepped_messages(posterior: Any) -> list[str]:
    """In words, which parameters have a gradient of zero, though the likelihood depends on them."""
    return [
        f'The likelihood reads Param {name!r} only through steps (comparisons, rounding, whole numbers, '
        'stop_gradient), so that its gradient is zero everywhere: whatever goes by gradients leaves it at its start or '
        'draws it from its prior, and reports that as a result. Make the step smooth (jax.nn.sigmoid((x - '
        f'{name}) / width) in place of x < {name}), sum the likelihood over its values, or fit the other Params for '
        f'each value of it on a grid (nn.Const). infer.elliptical_slice uses no gradients.'
        for name in posterior.inspection.stepped
    ]
