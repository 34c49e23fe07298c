"""Gaussians from the curvature at a point, with one function for each structure of the precision matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import linalg

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.infer.laplace.curvature import Curvature
from brainstate_prob.infer.laplace.gaussians import Blocks, Diagonal, Full, Kronecker, LowRank, NotPositiveDefinite

__all__ = ['LARGEST', 'STRUCTURES', 'describe', 'full_from', 'param_blocks', 'tolerance_of']

LARGEST = 5000  # columns of a dense matrix: 200 MB in double precision, of which a few copies are needed
_FEW = 1000  # up to this size the exact diagonal is as cheap as the check for single observations


def tolerance_of(curvature: Curvature) -> float:
    """The rounding error of a precision matrix whose diagonal is scaled to one."""
    return 10 * float(jnp.finfo(curvature.density.dtype).eps)


def full_from(matrices: Any, curvature: Curvature, where: Any = slice(None)) -> tuple[Full, list[str]]:
    """The Gaussian of the sum of the likelihood's and the prior's matrix, in all columns or those at ``where``.

    A prior that is not log-concave may have negative curvature. Under Gauss-Newton it is then taken as zero along these
    directions, with a note.
    """
    likelihood, prior = (np.asarray(m, np.float64) for m in matrices)
    tolerance = tolerance_of(curvature)

    def placed(direction: np.ndarray) -> np.ndarray:
        among_all = np.zeros(curvature.size)
        among_all[where] = direction
        return among_all

    try:
        try:
            return Full.of(likelihood + prior, tolerance), []
        except NotPositiveDefinite as error:
            if not np.isfinite(error.curvature):
                raise
            values, vectors = linalg.eigh((prior + prior.T) / 2)
            if curvature.kind == 'hessian' or values[0] >= 0:
                raise
            clipped = Full.of(likelihood + (vectors * values.clip(0)) @ vectors.T, tolerance)
            note = (
                'The prior with its log-determinant curves upwards along '
                f'{describe(placed(vectors[:, 0]), curvature)}; its curvature there was taken as zero, which makes the '
                'Gaussian wider.'
            )
            return clipped, [note]
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(placed(error.direction), error.curvature) from None


def _full(curvature: Curvature, theta: np.ndarray, data: Data, rank: int | None) -> tuple[Full, list[str]]:
    refuse_large(curvature.size)
    return full_from(curvature.matrices(theta, data), curvature)


def refuse_large(size: int) -> None:
    """Refuse a dense matrix that is too large for memory.

    Raises
    ------
    ValueError
        Naming the other structures.
    """
    if size > LARGEST:
        raise ValueError(
            f'A dense precision of {size} numbers would take {size**2 * 8 / 1e9:.1f} GB a copy; the largest is '
            f"{LARGEST}. Use structure='kronecker', 'low_rank' or 'diagonal', or params= for some of the parameters "
            '(the last layer, say).'
        )


def _diagonal(curvature: Curvature, theta: np.ndarray, data: Data, rank: int | None) -> tuple[Diagonal, list[str]]:
    many = curvature.kind == 'ggn' and curvature.size > _FEW and data.targets is not None
    if many and curvature.row_problem(theta, data) is None:
        likelihood = np.asarray(curvature.row_diagonal(theta, data), np.float64)
        prior = np.asarray(curvature.prior_diagonal(theta, data), np.float64)
        return Diagonal.of(likelihood + prior), []
    return Diagonal.of(np.asarray(curvature.diagonal(theta, data), np.float64)), []


def _low_rank(curvature: Curvature, theta: np.ndarray, data: Data, rank: int | None) -> tuple[LowRank, list[str]]:
    dtype = curvature.density.dtype
    rank = min(curvature.size, 20 if rank is None else rank)

    def times(vector: np.ndarray) -> np.ndarray:
        return np.asarray(curvature.times(vector[None].astype(dtype), theta, data)[0], np.float64)

    diagonal = np.asarray(curvature.prior_diagonal(theta, data), np.float64)
    loose = np.flatnonzero(diagonal <= tolerance_of(curvature) * max(1.0, np.abs(diagonal).max()))
    if len(loose) > _FEW:
        raise ValueError(
            f"structure='low_rank' corrects the prior's precision along a few directions, but {len(loose)} numbers "
            f'have a prior that is flat (most in {describe(_axis(curvature, loose[0]), curvature)}). Give '
            "these Params a prior, or use structure='kronecker' or 'diagonal'."
        )
    for i in loose:  # without a prior: the likelihood's own diagonal
        diagonal[i] = times(_axis(curvature, i))[i]
    if (diagonal <= 0).any():
        worst = int(np.argmin(diagonal))
        raise NotPositiveDefinite(_axis(curvature, worst), diagonal[worst])
    return LowRank.of(times, diagonal, rank), []


def _axis(curvature: Curvature, column: Any) -> np.ndarray:
    axis = np.zeros(curvature.size)
    axis[column] = 1.0
    return axis


def _kronecker(curvature: Curvature, theta: np.ndarray, data: Data, rank: int | None) -> tuple[Blocks, list[str]]:
    problem = 'there are no targets' if data.targets is None else curvature.row_problem(theta, data)
    if problem is not None:
        raise ValueError(
            f"structure='kronecker' takes the observations one at a time, but {problem}. Use structure='full', "
            "'low_rank' or 'diagonal'."
        )
    blocks = param_blocks(curvature)
    prior = np.asarray(curvature.prior_diagonal(theta, data), np.float64)
    scales, notes = np.ones(curvature.size), []
    extras = {}
    for name, where, shape in blocks:
        own = prior[where]
        # Scaling makes a proper prior the unit matrix, so its precisions may differ between entries.
        if (own > 0).all() and len(shape) == 2:
            scales[where], extras[name] = np.sqrt(own), 1.0
        elif len(shape) == 2:
            extras[name] = float(own.clip(0).mean())
            if own.any():
                notes.append(
                    f'The prior of {name!r} with its log-determinant does not curve downwards everywhere; in its '
                    'Kronecker factors the mean of its curvature was used, with zero for negative ones.'
                )
    dtype = curvature.density.dtype
    factors = curvature.kronecker([shape for _, _, shape in blocks], scales.astype(dtype), theta, data)
    dense = [where for _, where, shape in blocks if len(shape) == 1]
    rows = iter(_prior_rows(curvature, dense, theta, data))
    parts: list[Any] = []
    for (name, where, shape), factor_arrays in zip(blocks, factors, strict=True):
        arrays = [np.asarray(x, np.float64) for x in factor_arrays]
        if len(shape) == 1:
            dense_part, dense_notes = full_from((arrays[0], next(rows)[:, where]), curvature, where)
            notes += dense_notes
            parts.append(dense_part)
        else:
            try:
                parts.append(Kronecker.of(arrays[0], arrays[1], scales[where], extras[name]))
            except NotPositiveDefinite as error:
                direction = np.zeros(curvature.size)
                direction[where] = error.direction
                raise NotPositiveDefinite(direction, error.curvature) from None
    return Blocks(parts), notes


def _prior_rows(curvature: Curvature, groups: list[np.ndarray], theta: np.ndarray, data: Data) -> list[np.ndarray]:
    """Rows of the prior's Hessian, group by group."""
    if not groups:
        return []
    axes = np.eye(curvature.size, dtype=curvature.density.dtype)[np.concatenate(groups)]
    rows = np.asarray(curvature.times(axes, theta, data._replace(targets=None)), np.float64)
    return np.split(rows, np.cumsum([len(g) for g in groups])[:-1])


def param_blocks(curvature: Curvature) -> list[tuple[str, np.ndarray, tuple[int, ...]]]:
    """The blocks of Params in the order of the columns: name, positions, and shape.

    ``(rows, columns)`` has Kronecker factors of these sizes: the last axis and all before it, as in ``x @ w`` and in
    convolutions. Anything else is one dense block, ``(size,)``.

    Raises
    ------
    ValueError
        For a block that is too large.
    """
    place = {column: i for i, column in enumerate(curvature.columns.tolist())}
    factor_arrays = []
    shapes = {entry.name: entry.shape for entry in curvature.density.entries}
    for name, columns in columns_of(curvature.density).items():
        if columns[0] not in place:
            continue
        where = np.asarray([place[c] for c in columns.tolist()])
        shape = shapes[name]
        is_matrix = len(shape) >= 2 and len(where) == math.prod(shape)
        block = (math.prod(shape[:-1]), shape[-1]) if is_matrix else (len(where),)
        for size in block:
            refuse_large(size)
        factor_arrays.append((name, where, block))
    return sorted(factor_arrays, key=lambda item: int(item[1][0]))


def describe(direction: np.ndarray, curvature: Curvature) -> str:
    """The Params with the largest shares in a direction, for messages."""
    full = np.zeros(curvature.density.size)
    full[curvature.columns] = direction**2 / np.sum(direction**2)
    shares = []
    for name, columns in columns_of(curvature.density).items():
        own = full[columns]
        where = '' if len(columns) == 1 else f' (most at number {int(np.argmax(own))})'
        shares.append((float(own.sum()), f'{name!r}{where}'))
    shares.sort(reverse=True)
    return ', '.join(text for share, text in shares[:4] if share > 0.05)


STRUCTURES: dict[str, Callable] = {'full': _full, 'diagonal': _diagonal, 'low_rank': _low_rank, 'kronecker': _kronecker}
