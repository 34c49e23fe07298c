"""Gaussians given by a precision matrix: sampling, solves and log-determinants for each structure.

Plain NumPy in double precision, on the host: the factorizations are small beside the model's derivatives, and single
precision has too few digits for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, eigsh

__all__ = ['Blocks', 'Diagonal', 'Full', 'Kronecker', 'LowRank', 'NotPositiveDefinite', 'from_record', 'to_record']


class NotPositiveDefinite(ValueError):
    """A precision matrix is not positive definite.

    Attributes
    ----------
    direction
        The worst direction, in coordinates in which the matrix has diagonal entries of size one.
    curvature
        The matrix along it.
    """

    def __init__(self, direction: np.ndarray, curvature: float):
        super().__init__(f'The curvature along a direction is {curvature:.3g}, which must be positive.')
        self.direction, self.curvature = direction, float(curvature)


def _check_finite(precision: np.ndarray) -> None:
    """Refuse a matrix, or a diagonal, with an entry that is not finite."""
    rows = ~np.isfinite(precision.reshape(len(precision), -1)).all(axis=1)
    if rows.any():
        raise NotPositiveDefinite(rows / np.sqrt(rows.sum()), np.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class Full:
    """Any positive definite precision, S L L' S with S diagonal."""

    scale: np.ndarray
    factor: np.ndarray
    size: int
    log_det: float

    @classmethod
    def of(cls, precision: np.ndarray, tolerance: float = 0.0) -> Full:
        """The Gaussian with this precision matrix.

        Parameters
        ----------
        tolerance
            The smallest eigenvalue that counts as positive, once the diagonal is scaled to one: its rounding error.
        """
        _check_finite(precision)
        precision = (precision + precision.T) / 2
        scale = np.sqrt(np.abs(np.diag(precision)))  # unequal units: a factor of 100 is common
        scale[scale == 0] = 1.0
        scaled = precision / np.outer(scale, scale)
        try:
            factor = linalg.cholesky(scaled, lower=True)
            # LAPACK has no cheap sharp bound; the smallest pivot is an upper bound.
            is_positive = not np.diag(factor).min() ** 2 <= tolerance
        except linalg.LinAlgError:
            is_positive = False
        if not is_positive:
            values, vectors = linalg.eigh(scaled, subset_by_index=[0, 0])
            raise NotPositiveDefinite(vectors[:, 0], values[0])
        log_det = 2 * float(np.sum(np.log(np.diag(factor))) + np.sum(np.log(scale)))
        return cls(scale, factor, len(precision), log_det)

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """A square root of the covariance times each row, which maps standard normal rows to draws."""
        return linalg.solve_triangular(self.factor, rows.T, lower=True, trans=1).T / self.scale

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """The covariance times a vector."""
        return linalg.cho_solve((self.factor, True), gradient / self.scale) / self.scale


@dataclasses.dataclass(frozen=True, eq=False)
class Diagonal:
    """Independent coordinates."""

    size: int
    deviation: np.ndarray
    log_det: float

    @classmethod
    def of(cls, precision: np.ndarray) -> Diagonal:
        """The Gaussian with these precisions."""
        _check_finite(precision)
        if not (precision > 0).all():
            worst = int(np.argmin(precision))
            raise NotPositiveDefinite(np.eye(1, len(precision), worst)[0], precision[worst])
        return cls(len(precision), 1 / np.sqrt(precision), float(np.sum(np.log(precision))))

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """As for `Full`."""
        return rows * self.deviation

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """As for `Full`."""
        return gradient * self.deviation**2


@dataclasses.dataclass(frozen=True, eq=False)
class LowRank:
    """Precision D^(1/2) (1 + V L V') D^(1/2): a diagonal with a low-rank correction."""

    size: int
    deviation: np.ndarray
    vectors: np.ndarray
    values: np.ndarray
    log_det: float

    @classmethod
    def of(cls, times: Callable[[np.ndarray], np.ndarray], diagonal: np.ndarray, rank: int) -> LowRank:
        """The Gaussian with this precision.

        Parameters
        ----------
        times
            The precision times a vector.
        diagonal
            D, positive.
        rank
            How many directions: those where the precision differs most from D, relative to D.
        """
        _check_finite(diagonal)
        size, deviation = len(diagonal), 1 / np.sqrt(diagonal)

        def relative(vector: np.ndarray) -> np.ndarray:
            vector = np.ravel(vector)
            return deviation * times(deviation * vector) - vector

        if rank >= size - 1:
            matrix = np.stack([relative(axis) for axis in np.eye(size)])
            values, vectors = linalg.eigh((matrix + matrix.T) / 2)
        else:
            operator = LinearOperator((size, size), matvec=relative, dtype=np.float64)
            start = np.random.default_rng(0).normal(size=size)  # a fixed seed, so that the fit is deterministic
            values, vectors = eigsh(operator, k=rank, which='LM', v0=start)
        values = 1 + values
        if values.min() <= 0:
            raise NotPositiveDefinite(vectors[:, np.argmin(values)], values.min())
        log_det = float(np.sum(np.log(values)) - 2 * np.sum(np.log(deviation)))
        return cls(size, deviation, vectors, values, log_det)

    def _power(self, rows: np.ndarray, power: float) -> np.ndarray:
        return rows + ((rows @ self.vectors) * (self.values**power - 1)) @ self.vectors.T

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """As for `Full`."""
        return self._power(rows, -0.5) * self.deviation

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """As for `Full`."""
        return self._power((gradient * self.deviation)[None], -1.0)[0] * self.deviation


@dataclasses.dataclass(frozen=True, eq=False)
class Kronecker:
    """Precision S (A x B + t) S of a matrix of shape (len(A), len(B)), row after row; S is diagonal, t a number.

    ``a`` and ``b`` are the eigenvectors of A and B, ``values`` the eigenvalues of A x B + t.
    """

    a: np.ndarray
    b: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]
    scale: np.ndarray
    size: int
    log_det: float

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray, scale: np.ndarray, extra: float) -> Kronecker:
        """The Gaussian of A, B, S and t."""
        (a_values, a), (b_values, b) = linalg.eigh((a + a.T) / 2), linalg.eigh((b + b.T) / 2)
        # Both are positive semi-definite, so negative eigenvalues are rounding errors.
        values = np.outer(a_values.clip(0), b_values.clip(0)) + extra
        if not values.min() > 1e-12 * values.max():
            i, j = np.unravel_index(np.argmin(values), values.shape)
            raise NotPositiveDefinite(np.outer(a[:, i], b[:, j]).ravel(), values.min())
        log_det = float(np.sum(np.log(values)) + 2 * np.sum(np.log(scale)))
        return cls(a, b, values, values.shape, scale, values.size, log_det)

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """As for `Full`."""
        scaled = rows.reshape(-1, *self.shape) / np.sqrt(self.values)
        return (self.a @ scaled @ self.b.T).reshape(len(rows), -1) / self.scale

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """As for `Full`."""
        turned = self.a.T @ (gradient / self.scale).reshape(self.shape) @ self.b
        return (self.a @ (turned / self.values) @ self.b.T).ravel() / self.scale


@dataclasses.dataclass(eq=False)
class Blocks:
    """Independent blocks of consecutive coordinates.

    Parameters
    ----------
    parts
        The Gaussians of the blocks.
    """

    parts: Sequence[Any]

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return sum(part.size for part in self.parts)

    @property
    def log_det(self) -> float:
        """The log-determinant of the precision."""
        return float(sum(part.log_det for part in self.parts))

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """As for `Full`."""
        cuts = np.cumsum([part.size for part in self.parts])[:-1]
        pieces = np.split(rows, cuts, axis=1)
        return np.concatenate([part.spread(x) for part, x in zip(self.parts, pieces, strict=True)], axis=1)

    def solve(self, gradient: np.ndarray) -> np.ndarray:
        """As for `Full`."""
        cuts = np.cumsum([part.size for part in self.parts])[:-1]
        pieces = np.split(gradient, cuts)
        return np.concatenate([part.solve(x) for part, x in zip(self.parts, pieces, strict=True)])


_KINDS = {cls.__name__: cls for cls in (Full, Diagonal, LowRank, Kronecker)}


def to_record(gaussian: Any) -> dict[str, Any]:
    """A Gaussian as plain data and arrays, for files."""
    if isinstance(gaussian, Blocks):
        return {'kind': 'Blocks', 'parts': [to_record(part) for part in gaussian.parts]}
    return {'kind': type(gaussian).__name__, **vars(gaussian)}


def from_record(record: dict[str, Any]) -> Any:
    """The inverse of `to_record`."""
    fields = {name: x for name, x in record.items() if name != 'kind'}
    if record['kind'] == 'Blocks':
        return Blocks([from_record(part) for part in fields['parts']])
    return _KINDS[record['kind']](**fields)
