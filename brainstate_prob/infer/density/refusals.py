"""Parameters that no posterior takes, or no sampler."""

from __future__ import annotations

from brainstate_prob.infer.density.blocks import Entry
from brainstate_prob.nn.supports import is_narrower

__all__ = ['refuse_equal_paths', 'refuse_for_sampling', 'refuse_narrow_priors']


def refuse_equal_paths(entries: list[Entry]) -> None:
    """Refuse parameters with the same dotted name, from keys of different types or keys with dots."""
    by_name: dict[str, tuple] = {}
    for e in entries:
        if e.name in by_name:
            raise ValueError(
                f'Two parameters have the path {e.name!r}: {by_name[e.name]} and {e.path}. Rename one: keys such as 1 '
                "and '1', or names with a dot, read alike in results."
            )
        by_name[e.name] = e.path


def refuse_narrow_priors(entries: list[Entry]) -> None:
    """Refuse priors that are zero at values which the transform gives."""
    for e in entries:
        if e.param is None or e.reg is None or e.on_theta:
            continue
        support = e.reg.support_in(e.unit)
        if is_narrower(support, e.t.codomain):
            raise ValueError(
                f'Param {e.name!r}: its prior {e.reg!r} has support {support}, narrower than the codomain '
                f'{e.t.codomain} of its '
                f'transform {e.param.t!r}: optimizers and samplers would step to density zero. Use t=None to have '
                'the '
                "transform chosen from the prior's support."
            )


def refuse_for_sampling(entries: list[Entry]) -> None:
    """Refuse parameters whose theta has no density, or not on all reals."""
    for e in entries:
        if not e.t.has_density:
            raise ValueError(
                f'Param {e.name!r}: {e.t!r} is not a bijection, so theta has no density under it. Use SigmoidT in '
                'place of ClipT, SoftplusT in place of ReluT, or fit by MAP.'
            )
        if not e.t.unconstrained:
            raise ValueError(
                f'Param {e.name!r}: theta of {e.t!r} is itself confined to {e.t.domain}, but samplers and guides '
                'move it over all reals. Compose it, e.g. ChainT(PositiveT(), PowerT()).'
            )
