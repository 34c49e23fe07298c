"""A check that the rows of the data are conditionally independent, as minibatching assumes.

Minibatches, bootstrap samples and predictions in parts are valid only if the log-likelihood of a row does not depend on
the other rows that the model is called with. This is checked on a few hundred rows (`informative_rows`): all of them
together are compared with halves of them, at several points of the parameters.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

from brainstate_prob import environ
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.sharding import on_host, whole
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.noise import draws_noise, noise
from brainstate_prob.infer.target.informative_rows import VERSIONS, informative_rows, row_order, rows_of
from brainstate_prob.infer.words import misfit

if TYPE_CHECKING:
    from brainstate_prob.infer.target.posterior import Posterior

__all__ = ['check_parts', 'check_rows']

_MOST, _LEAST, _NUMBERS = 512, 16, 2**16  # the number of rows compared, by the size of a row


class _Point(NamedTuple):
    """A point theta = ``sign`` * start + ``shift`` * normal noise, and the version of the rows."""

    sign: int
    shift: float
    version: int = 0
    sort: bool = False  # whether the halves are split by the values of some column


# At the start a coefficient that couples rows may be zero, or in a flat region of a function; far
# from it the model may saturate.
_POINTS = (
    _Point(1, 0.0),
    _Point(1, 0.1, sort=True),
    _Point(1, 1.0),
    _Point(1, 1.0, 1),
    _Point(1, 0.1, 2),
    _Point(0, 1.0, 1, sort=True),
    _Point(0, 3.0, 2),
    _Point(-1, 1.0, 1),
    _Point(-1, 1.0, 2, sort=True),
    _Point(1, 10.0, 2),
)
# Sums over other blocks of rows are rounded differently. How far rounding reaches is measured: theta and inputs are
# changed by a few units in the last place. A difference counts beyond 50 times the effect of that, and beyond 100 units
# in the last place of the number itself (a tenth of it, where the precision is lower).
_NUDGE, _MARGIN, _ULPS, _LARGEST_SHARE = 4, 50, 100, 0.1
_CAUSES = '(a series whose rows read the rows before, a joint distribution of all rows, a mean over the rows)'

_problems: weakref.WeakKeyDictionary[Posterior, dict[Any, str | None]] = weakref.WeakKeyDictionary()


def check_rows(
    posterior: Posterior, data: Data, num: int, what: str, fix: str, *, predicted: bool = False, most: int = _MOST
) -> None:
    """Refuse minibatches where the model makes rows depend on each other.

    The model is in use here, not in training (``environ.context(fit=False)``): statistics of the batch that are there
    only in training, as those of `nn.BatchNorm1d`, are no objection. The data of a posterior are looked at once.

    Parameters
    ----------
    data, num
        The rows: whatever has ``num`` entries along its first axis.
    what, fix
        How parts were asked for, and what to do instead: for the message.
    predicted
        Compare what is predicted for the targets in place of their log-likelihood.
    most
        The most rows that the model is called with, where memory is short; two at least.

    Raises
    ------
    ValueError
        Where a row depends on others, where the log-likelihood of all is not the sum over parts, or where the model
        cannot be called with a part of the rows.
    """
    if num < 2 or _is_trained_on_batches_alone(posterior):
        return
    in_batches = what == 'batches='
    known = _problems.setdefault(posterior, {})
    key = predicted, in_batches, environ.static_key()
    new = not (in_batches or data is posterior.data)  # opaque inputs
    if new or key not in known:
        with environ.context(fit=False):
            problem = _problem(posterior, data, num, in_batches, predicted, most)
        if not new:
            known[key] = problem
    else:
        problem = known[key]
    if problem is not None:
        raise ValueError(f'{what} takes the rows in parts, but {problem} {fix}')


def _is_trained_on_batches_alone(posterior: Posterior) -> bool:
    """Whether the model is in training mode with batch statistics but no running ones."""
    if not environ.get('fit', False):
        return False
    return any(getattr(m, 'track_running_stats', True) is False for m in posterior.model.modules())


def _problem(posterior: Posterior, data: Data, num: int, in_batches: bool, predicted: bool, most: int) -> str | None:
    """What makes the rows dependent, in words."""
    compared = _Comparison(posterior, data, num, predicted, most)
    try:
        if draws_noise(posterior.density, posterior.theta, compared.first):
            return compared.in_place()
        return compared.in_halves()
    except _JointError:
        return compared.joint()
    except (TypeError, ValueError) as error:
        if not in_batches:
            why = misfit(error, posterior.entries, num) or str(error).splitlines()[0]
            return f'the model cannot be called with a part of them: {why.removesuffix(".")}.'
    # The model may be built for one batch size.
    return _Comparison(posterior, data, num, predicted, None).in_place()


class _Comparison:
    """Log-likelihoods or predictions of some rows at some points, compared for subsets of the rows."""

    def __init__(self, posterior: Posterior, data: Data, num: int, predicted: bool, most: int | None):
        rng = np.random.default_rng(0)
        data = whole(data)
        size = None if most is None else _size(data, num, most)
        self.rows, self.data = informative_rows(rng, data, num, size)
        self.num = len(self.rows)
        self.density, self.predicted = posterior.density, predicted
        self.eps = float(jnp.finfo(self.density.dtype).eps)
        theta = np.asarray(on_host(posterior.theta)).astype(np.float64)
        points = [p.sign * theta + p.shift * rng.normal(size=theta.shape) for p in _POINTS]
        self.thetas = np.stack([point.astype(self.density.dtype) for point in points])
        self.near = [self._near(rng) for _ in range(2)]
        self.order = np.stack([row_order(rng, self.data, self.num, p.version, p.sort) for p in _POINTS])

    @property
    def first(self) -> Data:
        """The rows unchanged."""
        return rows_of(self.data, np.arange(self.num), self.num * len(VERSIONS))

    def in_halves(self) -> str | None:
        """Compare all rows with two halves of them."""
        half = self.num // 2
        index = self.order[:, : 2 * half]
        together, near = self._together(np.sort(index, axis=1))
        apart = self._values(np.repeat(self.thetas, 2, axis=0), index.reshape(-1, half), self.data)
        place = np.argsort(np.argsort(index, axis=1), axis=1)  # the position among all rows, which are sorted
        for a, b, c in zip(together, near, apart, strict=True):
            if _has_rows(a, 2 * half) and _has_rows(c, half):
                if a.shape[2:] != c.shape[2:]:
                    return self.joint()
                joined = c.reshape(len(_POINTS), 2 * half, *c.shape[2:])
                a, b = (np.stack([x[i] for x, i in zip(y, place, strict=True)]) for y in (a, b))
                at = self._differs(a, b, joined)
                if at is not None:
                    row = self._named(at[0], index[at[0], at[1]])
                    return self._depends(row, a[at], joined[at], f'{2 * half} rows', 'half of them')
            elif self.predicted:
                if a.shape[1:] != c.shape[1:] or self._differs(np.repeat(a, 2, 0), np.repeat(b, 2, 0), c):
                    return self.joint()
            else:
                return self._adds_up(_summed(a), _summed(b), _summed(c).reshape(-1, 2), 2 * half)
        return None

    def in_place(self) -> str | None:
        """Compare half of the rows in place, with the other half replaced by other rows.

        For models whose random numbers depend on the position of a row, and for models that take a fixed number of
        rows.
        """
        index = np.tile(np.arange(self.num), (len(_POINTS), 1))
        kept, rest = self.order[:, self.num // 2 :], self.order[:, : self.num // 2]
        together, near = self._together(index)
        replaced = index.copy()
        np.put_along_axis(replaced, rest, kept[:, : rest.shape[1]], axis=1)
        apart = self._values(self.thetas, replaced, self.data)
        for a, b, c in zip(together, near, apart, strict=True):
            if _has_rows(a, self.num):
                a, b, c = (np.stack([x[i] for x, i in zip(y, kept, strict=True)]) for y in (a, b, c))
                at = self._differs(a, b, c)
                if at is not None:
                    row = self._named(at[0], kept[at[0], at[1]])
                    return self._depends(row, a[at], c[at], f'{self.num} rows', 'as many, half of them others')
            elif self.predicted and self._differs(a, b, c) is not None:
                return self.joint()
        return None

    # Values

    def _values(self, thetas: np.ndarray, index: np.ndarray, data: Data) -> list[np.ndarray]:
        """The compared values of the rows at each ``index`` for each theta: (thetas, ...)."""
        run = self.density.compiled(_values, predicted=self.predicted, num=self.num * len(VERSIONS))
        version = np.repeat([p.version for p in _POINTS], len(index) // len(_POINTS))
        index = index + self.num * version[:, None]
        out = run(jnp.asarray(thetas, self.density.dtype), index.astype(np.int32), data)
        return [np.asarray(x).astype(np.float64) for x in on_host(out)]

    def _together(self, index: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The values, and the effect of rounding on them: the larger change of two small perturbations."""
        values = self._values(self.thetas, index, self.data)
        changed = [self._values(thetas, index, data) for thetas, data in self.near]
        with np.errstate(all='ignore'):
            near = [
                np.where(np.isfinite(b) & ~(np.abs(c - a) > np.abs(b - a)), b, c)
                for a, b, c in zip(values, *changed, strict=True)
            ]
        return values, near

    def _near(self, rng: np.random.Generator) -> tuple[np.ndarray, Data]:
        thetas = self.thetas * (1 + _NUDGE * self.eps * rng.normal(size=self.thetas.shape))
        args, kwargs = jax.tree.map(lambda x: _perturbed(rng, x), (self.data.args, self.data.kwargs))
        return thetas.astype(self.thetas.dtype), self.data._replace(args=args, kwargs=kwargs)

    # Comparison

    def _share(self, a: np.ndarray, b: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The difference relative to ``scale``, and whether both are finite."""
        finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(scale)
        with np.errstate(all='ignore'):
            return np.where(finite, np.abs(a - b) / scale, 0.0), finite

    def _tolerance(self, a: np.ndarray, near: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The tolerance for each theta."""
        share, _ = self._share(a, near, scale)
        return _MARGIN * share.reshape(len(a), -1).max(1) + min(_ULPS * self.eps, _LARGEST_SHARE)

    def _differs(self, a: np.ndarray, near: np.ndarray, c: np.ndarray) -> tuple[int, ...] | None:
        """The first point and rows where ``c`` differs from ``a``; None if they agree."""
        size = np.abs(np.where(np.isfinite(a), a, 0.0))
        scale = size + (_typical(size) if self.predicted else 1.0) + np.finfo(np.float32).tiny
        share, _ = self._share(a, c, scale)
        beyond = share / self._tolerance(a, near, scale).reshape(-1, *(1,) * (a.ndim - 1))
        for i, at_point in enumerate(beyond):  # the rows as they are come first
            if at_point.max() > 1:
                return i, *(int(j) for j in np.unravel_index(np.argmax(at_point), at_point.shape))
        return None

    def _adds_up(self, a: np.ndarray, near: np.ndarray, parts: np.ndarray, num: int) -> str | None:
        scale = num + np.abs(a) + np.abs(parts).sum(1)
        share, _ = self._share(a, parts.sum(1), scale)
        beyond = share / self._tolerance(a, near, scale)
        if not beyond.max() > 1:
            return None
        i = int(np.argmax(beyond > 1))  # the rows as they are come first
        these = f'{num} rows{VERSIONS[_POINTS[i].version]}'
        return (
            f'their log-likelihood is one number that is not the sum of those of its parts: it is {a[i]:.6g} for '
            f'{these}, and {parts[i, 0]:.6g} and {parts[i, 1]:.6g} for two halves of them (a joint distribution of all '
            'rows, a mean in place of a sum, a term that no row has).'
        )

    def _named(self, point: int, place: int) -> str:
        return f'{self.rows[place]}{VERSIONS[_POINTS[point].version]}'

    def _depends(self, row: str, together: float, apart: float, these: str, those: str) -> str:
        what = 'what is predicted for' if self.predicted else 'the log-likelihood of'
        return (
            f'{what} a row depends on which others the model sees: that of row {row} is {together:.6g} among '
            f'{these} and {apart:.6g} among {those} {_CAUSES}.'
        )

    def joint(self) -> str:
        return f'what is predicted for a row depends on which others the model sees {_CAUSES}.'


class _JointError(Exception):
    """The predicted distribution is a joint one of all rows."""


def _is_joint(distribution: dist.Distribution, num: int) -> bool:
    while isinstance(distribution, dist.Independent):
        distribution = distribution.base_dist
    return not distribution.batch_shape and distribution.event_shape[:1] == (num,)


def _values(
    density: Density, thetas: jax.Array, index: jax.Array, data: Data, *, predicted: bool, num: int
) -> list[jax.Array]:
    """The values for each pair of theta and rows."""

    def value(theta: jax.Array, data: Data, length: int) -> list[jax.Array]:
        with noise(density, jax.random.key(0), data) as noisy:
            if not predicted:
                return [density.pointwise(theta, noisy)]
            with density.open(theta, noisy) as model:
                distribution = model.distribution(noisy)
                if _is_joint(distribution, length):
                    raise _JointError
                parameters = jax.tree.leaves(distribution)
        return [x for x in map(jnp.asarray, parameters) if jnp.issubdtype(x.dtype, jnp.inexact)]

    # One precision for any number of rows: fast matrix products on accelerators depend on the shape.
    with jax.default_matmul_precision('highest'):
        length = index.shape[1]
        return lax.map(lambda pair: value(pair[0], rows_of(data, pair[1], num), length), (thetas, index))


def _size(data: Data, num: int, most: int) -> int:
    """The number of rows to compare."""
    leaves = jax.tree.leaves((data.args, data.kwargs, data.targets))
    numbers = sum(np.size(x) for x in leaves if np.shape(x)[:1] == (num,)) // num
    return max(2, min(most, max(_LEAST, min(_MOST, _NUMBERS // max(1, numbers)))))


def _perturbed(rng: np.random.Generator, x: Any) -> Any:
    """``x`` changed by a few units in the last place; equal values stay equal."""
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        return x
    values, which = np.unique(np.asarray(on_host(x)).astype(np.float64), return_inverse=True)
    factor = 1 + _NUDGE * float(jnp.finfo(dtype).eps) * rng.normal(size=values.shape)
    return (values * factor)[which].reshape(np.shape(x)).astype(dtype)


def _has_rows(x: np.ndarray, num: int) -> bool:
    return x.shape[1:2] == (num,)


def _typical(size: np.ndarray) -> np.ndarray:
    """The median of the non-zero values, for each point."""
    medians = [np.median(x[x > 0]) if (x > 0).any() else 0.0 for x in size]
    return np.array(medians).reshape(-1, *(1,) * (size.ndim - 1))


def _summed(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).sum(1)


def check_parts(posterior: Posterior, data: Data, batch_size: int | None, *, predicted: bool) -> None:
    """Refuse to evaluate rows in parts where they depend on each other: see `check_rows`."""
    if batch_size is None:
        return
    shapes = [np.shape(x) for x in jax.tree.leaves(whole((data.args, data.kwargs, data.targets)))]
    lengths = {shape[0] for shape in shapes if shape}
    if len(lengths) != 1:
        return  # an error of `over_batches`
    if batch_size < max(lengths):
        with precision_of(posterior.density):
            fix = 'Leave batch_size out.'
            check_rows(posterior, data, max(lengths), 'batch_size=', fix, predicted=predicted, most=batch_size)
