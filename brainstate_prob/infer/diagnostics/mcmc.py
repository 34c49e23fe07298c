"""Checks of MCMC draws: the worst parameter, and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.calls import users_line
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.support import bounds_move
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.networks import own_columns
from brainstate_prob.infer.density.noncentered import described
from brainstate_prob.infer.diagnostics.advice import advice
from brainstate_prob.infer.diagnostics.ess import e_bfmi, effective_sizes
from brainstate_prob.infer.diagnostics.safely import never_raises

__all__ = ['ConvergenceWarning', 'mcmc_problems', 'rounding_problems', 'warn_of']

_MANY_DIVERGENCES = 1e-3  # share of the draws; a few among thousands are harmless
_MANY_DEEP_TREES = 0.01
_NOISE = 0.1  # of a log density
_FEW_DIGITS = 0.02  # resolution of a number, in standard deviations
_FEWEST_DRAWS = 100  # per chain; R-hat and ESS need as many


class ConvergenceWarning(UserWarning):
    """The draws may not represent the posterior."""


class Observation(NamedTuple):
    """A finding about a run: its kind for `advice`, and its description."""

    kind: str
    text: str


@never_raises('The diagnostics of the chains')
def mcmc_problems(
    density: Density,
    thetas: np.ndarray,
    sample_stats: dict[str, np.ndarray],
    method: str,
    used: Mapping[str, Any],
    data: Data | None = None,
) -> list[str]:
    """The problems of a run with advice; empty if there is none.

    Parameters
    ----------
    thetas
        Draws, shape (chains, draws, size), in ``density``'s coordinates.
    sample_stats
        The available ones of ``diverging``, ``tree_depth``, ``energy``, ``lp``: arrays of shape (chains, draws).
    method
        The way to fit.
    used
        The values of its options (`Fit.info`).
    data
        The data, which decide whether the support of the targets depends on parameters.
    """
    observations: list[Observation | None] = []
    texts = rounding_problems(density, thetas, sample_stats)
    thetas = np.asarray(thetas, np.float64)
    if 'diverging' in sample_stats:
        observations.append(_divergences(density, thetas, sample_stats['diverging']))
    observations += _mixing(density, thetas)
    if 'tree_depth' in sample_stats:
        observations.append(_deep_trees(density, thetas, sample_stats['tree_depth'], used.get('max_tree_depth', 10)))
    if 'energy' in sample_stats:
        observations.append(_energy(sample_stats['energy']))
    facts = {
        'forms': described(density),
        'size': density.size,
        'support_moves': data is not None and bounds_move(density, data),
    }
    return texts + [f'{one.text} {advice(one.kind, method, used, **facts)}'.strip() for one in observations if one]


@never_raises('The diagnostics of rounding')
def rounding_problems(density: Density, thetas: np.ndarray, sample_stats: dict[str, np.ndarray]) -> list[str]:
    """Warnings about log densities or draws that the precision does not resolve."""
    texts = []
    lp = sample_stats.get('lp')
    if lp is not None and lp.dtype.itemsize < 8 and np.isfinite(lp).all():
        noise = float(np.median(np.abs(lp))) * float(jnp.finfo(lp.dtype).eps)
        if noise > _NOISE:
            texts.append(
                f'The log density is around {np.median(lp):.3g}, where {lp.dtype} has steps of {noise:.2g}: samplers '
                f'cannot see smaller differences. {_wider(lp.dtype)}, or subtract large offsets from inputs and '
                'targets.'
            )
    if thetas.dtype.itemsize >= 8 or thetas.shape[0] * thetas.shape[1] < 10:
        return texts
    mean = np.mean(thetas, axis=(0, 1), dtype=np.float64)
    spread = np.std(thetas, axis=(0, 1), dtype=np.float64)
    steps = np.where(spread > 0, np.abs(mean) * float(jnp.finfo(thetas.dtype).eps) / np.where(spread > 0, spread, 1), 0)
    worst = int(np.argmax(np.nan_to_num(steps)))
    if steps[worst] > _FEW_DIGITS:
        texts.append(
            f'The draws of {_name(density, worst)!r} vary in the last digits of {thetas.dtype} only (steps of '
            f'{steps[worst]:.2g} standard deviations). {_wider(thetas.dtype)}, or subtract an offset (nn.AffineT).'
        )
    return texts


def _wider(dtype: Any) -> str:
    """How to use the next higher precision."""
    if dtype.itemsize < 4:
        return f'Build the model with Params of float32, which are {dtype} now'
    return 'Work under jax.enable_x64(True)'


def warn_of(problems: list[str]) -> None:
    """Issue each problem as a `ConvergenceWarning`."""
    for text in problems:
        warnings.warn(text, ConvergenceWarning, stacklevel=users_line())


def _name(density: Density, index: int) -> str:
    """The path of one number of theta, with its index in the parameter."""
    for block in density.blocks:
        for entry, size in zip(block.entries, block.sizes, strict=True):
            if index < size:
                if size == entry.size and entry.shape:
                    where = ', '.join(str(i) for i in np.unravel_index(index, entry.shape))
                    return f'{entry.name}[{where}]'
                return entry.name
            index -= size
    raise IndexError(index)


def _divergences(density: Density, thetas: np.ndarray, diverging: np.ndarray) -> Observation | None:
    num, total = int(diverging.sum()), diverging.size
    if num <= _MANY_DIVERGENCES * total:
        return None
    where = ''
    if 10 <= num < total:
        shift = (thetas[diverging].mean(axis=0) - thetas[~diverging].mean(axis=0)) / (thetas.std(axis=(0, 1)) + 1e-30)
        worst = int(np.argmax(np.abs(shift)))
        side = 'low' if shift[worst] < 0 else 'high'
        where = f', most at {side} values of {_name(density, worst)!r}'
    share = f'{num} of {total} transitions ({100 * num / total:.3g} %) diverged{where}'
    return Observation('divergences', f'{share}: the draws miss a part of the posterior.')


def _mixing(density: Density, thetas: np.ndarray) -> list[Observation]:
    chains, draws = thetas.shape[:2]
    if draws < _FEWEST_DRAWS:
        return []
    total, problems = chains * draws, []
    own = own_columns(density)
    if not len(own):
        return []
    sizes = effective_sizes(thetas[..., own])
    if chains > 1:
        r_hat = np.nan_to_num(sizes['r_hat'], nan=np.inf)
        worst, limit = int(np.argmax(r_hat)), 1 + max(0.01, 40 / total)  # R-hat is noisier with fewer draws
        if r_hat[worst] > limit:
            many = f'above {limit:.3g} for {int((r_hat > limit).sum())} of {r_hat.size} numbers'
            name = repr(_name(density, own[worst]))
            text = f'R-hat of {name} is {r_hat[worst]:.3f} ({many}): the chains have not mixed.'
            if not np.ptp(thetas[..., own[worst]], axis=1).any():
                several = len(np.unique(thetas[..., own[worst]])) > 1
                where = 'at different values' if several else 'at one value'
                text = f'The chains are stuck in {name}, {where}: none has moved in {draws} draws.'
            problems.append(Observation('r_hat', text))
    limit = min(100 * chains, total / 10)
    for kind, meaning in (
        ('bulk', 'its mean and quantiles are uncertain'),
        ('tail', 'the bounds of its intervals are uncertain'),
    ):
        ess = np.nan_to_num(sizes[f'ess_{kind}'], nan=0.0)
        worst = int(np.argmin(ess))
        if ess[worst] < limit:
            many = f'below {limit:.0f} for {int((ess < limit).sum())} of {ess.size} numbers'
            value = f'{_name(density, own[worst])!r} is {ess[worst]:.0f} of {total} draws'
            problems.append(Observation('ess', f'The {kind} effective sample size of {value} ({many}): {meaning}.'))
            break  # a low bulk size implies a low tail size
    return problems


def _deep_trees(
    density: Density, thetas: np.ndarray, tree_depth: np.ndarray, max_tree_depth: int
) -> Observation | None:
    share = float(np.mean(tree_depth >= max_tree_depth))
    if share < _MANY_DEEP_TREES:
        return None
    spread = thetas.std(axis=(0, 1))
    widest, narrowest = int(np.argmax(spread)), int(np.argmin(spread))
    scales = (
        ''
        if spread.size == 1
        else (
            f' (theta of {_name(density, widest)!r} has sd {spread[widest]:.2g}, that of '
            f'{_name(density, narrowest)!r} {spread[narrowest]:.2g})'
        )
    )
    reached = f'{100 * share:.3g} % of the transitions reached max_tree_depth={max_tree_depth}{scales}'
    return Observation('tree_depth', f'{reached}: sampling is slow, not wrong.')


def _energy(energy: np.ndarray) -> Observation | None:
    if energy.shape[1] < _FEWEST_DRAWS:
        return None
    fraction = e_bfmi(energy)
    worst = int(np.argmin(np.nan_to_num(fraction, nan=np.inf)))
    if not fraction[worst] < 0.2:
        return None
    return Observation(
        'energy',
        f'E-BFMI of chain {worst} is {fraction[worst]:.2f} (below 0.2): heavy tails or a funnel that the '
        'sampler explores too slowly.',
    )
