"""Transforms as TFP bijectors, for formulas that TFP lacks."""

from brainstate_prob.nn.bijections.arguments import tfp_bijectors

__all__ = ['as_tfp_bijector']


def as_tfp_bijector(transform):
    """Wrap the formulas of a plain `transform` (no unit) in `tfb.Inline`."""
    rank = transform.event_rank
    return tfp_bijectors().Inline(
        forward_fn=transform.forward,
        inverse_fn=transform.inverse,
        forward_log_det_jacobian_fn=transform.log_abs_det_jacobian,
        inverse_log_det_jacobian_fn=lambda y: -transform.log_abs_det_jacobian(transform.inverse(y)),
        forward_event_shape_fn=transform.forward_shape,
        inverse_event_shape_fn=transform.inverse_shape,
        forward_event_shape_tensor_fn=lambda shape: transform.forward_shape(tuple(int(n) for n in shape)),
        inverse_event_shape_tensor_fn=lambda shape: transform.inverse_shape(tuple(int(n) for n in shape)),
        forward_min_event_ndims=rank,
        inverse_min_event_ndims=rank,
        name=type(transform).__name__,
    )
