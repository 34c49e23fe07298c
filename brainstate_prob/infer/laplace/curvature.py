"""The curvature of the negative log density of theta: as an operator, a matrix, a diagonal or Kronecker factors.

``'hessian'`` is the exact one. ``'ggn'``, the generalized Gauss-Newton matrix, is J' F J of the likelihood (see
`brainstate_prob.infer.density.information`) plus the exact Hessian of the log prior with its log-determinants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.density.blocks import ElementwiseBlock, HorseshoeBlock
from brainstate_prob.infer.density.information import outputs_of, predicted, total_divergence
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.target.minibatch import check_batch_size, take

__all__ = ['Curvature', 'chunks_of', 'curvature_of']

_NUMBERS = 2**22  # of the largest array over all directions that are pushed through the model at once
_PASSES = 4  # passes over the data to compute Kronecker factors


def curvature_of(density: Density, columns: np.ndarray, kind: str) -> Curvature:
    """The `Curvature` cached with the density."""
    columns = np.asarray(columns)
    return density.programs.get((Curvature, kind, columns.tobytes()), lambda: Curvature(density, columns, kind))


class Curvature:
    """Compiled programs for the curvature of a density in some columns of theta.

    All take ``(theta, data)`` with the whole theta, and give arrays about the columns.

    Parameters
    ----------
    density
        Whose log density, with log-determinants, is differentiated.
    columns
        The columns of theta that vary; the others are fixed.
    kind
        ``'hessian'`` or ``'ggn'``.
    """

    def __init__(self, density: Density, columns: np.ndarray, kind: str):
        self.density, self.columns, self.kind = density, columns, kind
        self.size = len(columns)
        self.is_whole = np.array_equal(columns, np.arange(density.size))
        self.is_expected = True  # whether F is the expected information; known after tracing

    # Functions of the columns that vary

    def part(self, theta: jax.Array) -> jax.Array:
        """The columns of ``theta``."""
        return theta if self.is_whole else theta[self.columns]

    def place(self, part: jax.Array, theta: jax.Array) -> jax.Array:
        """``theta`` with ``part`` in the columns."""
        return part if self.is_whole else theta.at[self.columns].set(part)

    def loss(self, part: jax.Array, theta: jax.Array, data: Data) -> jax.Array:
        """The negative log density."""
        return -self.density.log_density(self.place(part, theta), data)

    def prior_loss(self, part: jax.Array, theta: jax.Array, data: Data) -> jax.Array:
        """The negative log density of priors and log-determinants, without the likelihood."""
        return self.loss(part, theta, data._replace(targets=None))

    def information(self, part: jax.Array, theta: jax.Array, data: Data) -> tuple[Callable, Callable, Callable]:
        """The linear maps J, F and J' at ``part``, with J the Jacobian of the distribution's parameters."""
        made: list[Callable] = []

        def predict(part: jax.Array) -> tuple[list[jax.Array], list[Any]]:
            outputs, others, rebuild = outputs_of(predicted(self.density, self.place(part, theta), data))
            made.append(rebuild)
            return outputs, others

        outputs, push, others = jax.linearize(predict, part, has_aux=True)
        fixed = made[-1](outputs, others)

        def divergence(moved: list[jax.Array]) -> jax.Array:
            value, expected = total_divergence(fixed, made[-1](moved, others), data)
            self.is_expected = self.is_expected and expected
            return value

        pull = jax.linear_transpose(push, part)
        return push, jax.linearize(jax.grad(divergence), outputs)[1], lambda o: pull(o)[0]

    def products(self, part: jax.Array, theta: jax.Array, data: Data) -> tuple[Callable, Callable]:
        """The two linear maps whose sum is the curvature: the likelihood's and the prior's.

        The Hessian is not cut in two: its second map gives zero.
        """
        if self.kind == 'hessian':
            return jax.linearize(jax.grad(lambda p: self.loss(p, theta, data)), part)[1], jnp.zeros_like
        prior = jax.linearize(jax.grad(lambda p: self.prior_loss(p, theta, data)), part)[1]
        if data.targets is None:
            return jnp.zeros_like, prior
        push, fisher, pull = self.information(part, theta, data)
        return lambda v: pull(fisher(push(v))), prior

    # Programs over all observations

    def times(self, vectors: Any, theta: Any, data: Data) -> jax.Array:
        """The curvature times each row of ``vectors``."""

        def run(vectors: jax.Array, theta: jax.Array, data: Data) -> jax.Array:
            likelihood, prior = self.products(self.part(theta), theta, data)
            return jax.vmap(lambda v: likelihood(v) + prior(v))(vectors)

        return self._jit(Curvature.times, run)(vectors, theta, data)

    def matrices(self, theta: Any, data: Data) -> tuple[jax.Array, jax.Array]:
        """The two matrices whose sum is the curvature (see `products`)."""

        def run(theta: jax.Array, data: Data) -> tuple[jax.Array, jax.Array]:
            likelihood, prior = self.products(self.part(theta), theta, data)
            return self._along_axes(lambda i, v: (likelihood(v), prior(v)), data)

        return self._jit(Curvature.matrices, run)(theta, data)

    def diagonal(self, theta: Any, data: Data) -> jax.Array:
        """The diagonal of the curvature, with one product for each column."""

        def run(theta: jax.Array, data: Data) -> jax.Array:
            likelihood, prior = self.products(self.part(theta), theta, data)
            return self._along_axes(lambda i, v: likelihood(v)[i] + prior(v)[i], data)

        return self._jit(Curvature.diagonal, run)(theta, data)

    def prior_diagonal(self, theta: Any, data: Data) -> jax.Array:
        """The diagonal of the prior's curvature, with one product for each group of independent columns."""
        groups = self._groups()

        def run(theta: jax.Array, data: Data) -> jax.Array:
            part = self.part(theta)
            product = jax.linearize(jax.grad(lambda p: self.prior_loss(p, theta, data)), part)[1]

            def add(number: jax.Array, total: jax.Array) -> jax.Array:
                member = (groups == number).astype(part.dtype)
                return total + product(member) * member

            return lax.fori_loop(0, int(groups.max()) + 1, add, jnp.zeros_like(part))

        return self._jit(Curvature.prior_diagonal, run)(theta, data)

    def log_det_gradient(self, roots: Any, theta: Any, data: Data) -> jax.Array:
        """The gradient in all of theta of half the log-determinant of the curvature.

        Parameters
        ----------
        roots
            Rows whose outer products sum to the inverse of the curvature at ``theta``; of its diagonal, for that.
        """

        def run(roots: jax.Array, theta: jax.Array, data: Data) -> jax.Array:
            def half_trace(theta: jax.Array, rows: jax.Array) -> jax.Array:
                likelihood, prior = self.products(self.part(theta), theta, data)
                return jnp.sum(jax.vmap(lambda v: jnp.vdot(v, likelihood(v) + prior(v)))(rows)) / 2

            def add(total: jax.Array, rows: jax.Array) -> tuple[jax.Array, None]:
                return total + jax.grad(half_trace)(theta, rows), None

            return lax.scan(add, jnp.zeros_like(theta), roots)[0]

        return self._jit(Curvature.log_det_gradient, run)(chunks_of(np.asarray(roots, self.density.dtype)), theta, data)

    # Programs over one observation at a time

    def row_problem(self, theta: Any, data: Data) -> str | None:
        """The reason why observations cannot be evaluated one at a time; None if they can."""
        num = np.shape(data.targets)[0] if np.ndim(data.targets) else 0
        try:
            check_batch_size(data, 1, num)
        except ValueError as error:
            return str(error)

        def run(theta: jax.Array, data: Data) -> tuple[jax.Array, jax.Array]:
            def alone(index: jax.Array) -> jax.Array:
                return self.density.pointwise(theta, take(data, index))

            each = lax.map(jax.vmap(alone), jnp.minimum(_chunked(num, 64), num - 1)[..., None])
            together = self.density.pointwise(theta, data)
            return each.reshape(-1, *together.shape[1:])[:num], together

        try:
            alone, together = (np.asarray(x) for x in self._jit(Curvature.row_problem, run)(theta, data))
        except (TypeError, ValueError) as error:
            return f'the model cannot be called with one observation alone ({str(error).splitlines()[0]})'
        tolerance = 1e3 * float(jnp.finfo(self.density.dtype).eps)
        if alone.shape == together.shape and np.allclose(alone, together, rtol=tolerance, atol=tolerance):
            return None
        return 'what the model predicts for one observation depends on the others'

    def row_diagonal(self, theta: Any, data: Data) -> jax.Array:
        """The diagonal of the likelihood's Gauss-Newton matrix."""

        def run(theta: jax.Array, data: Data) -> jax.Array:
            def add(total: jax.Array, rows: jax.Array) -> jax.Array:
                return total + jnp.sum(rows**2, axis=0)

            return self._over_observations(add, jnp.zeros(self.size, theta.dtype), theta, data)

        return self._jit(Curvature.row_diagonal, run)(theta, data)

    def kronecker(self, shapes: Sequence[tuple], scales: Any, theta: Any, data: Data) -> list[tuple[jax.Array, ...]]:
        """Factors of the diagonal blocks of the likelihood's Gauss-Newton matrix.

        Parameters
        ----------
        shapes
            By block of columns: ``(rows, columns)`` for two factors (A, B), with A x B the nearest Kronecker
            product in the Frobenius norm, or ``(size,)`` for the whole block.
        scales
            What each column is divided by first.
        """

        def run(scales: jax.Array, theta: jax.Array, data: Data) -> list[tuple[jax.Array, ...]]:
            def pieces(rows: jax.Array) -> list[jax.Array]:
                cut = lax.split(rows / scales, [math.prod(shape) for shape in shapes], axis=1)
                return [x.reshape(-1, *shape) for x, shape in zip(cut, shapes, strict=True)]

            def summed(term: Callable, given: list[jax.Array], sizes: list[int]) -> list[jax.Array]:
                def add(totals: list, rows: jax.Array) -> list:
                    return [t + term(x, f) for t, x, f in zip(totals, pieces(rows), given, strict=True)]

                return self._over_observations(add, [jnp.zeros((n, n), theta.dtype) for n in sizes], theta, data)

            def over_norm(x: jax.Array, other: jax.Array) -> jax.Array:
                return x / jnp.maximum(jnp.sum(other**2), jnp.finfo(x.dtype).tiny)

            def find_left(b: list[jax.Array]) -> list[jax.Array]:
                def term(x: jax.Array, b: jax.Array) -> jax.Array:
                    return x.T @ x if x.ndim == 2 else jnp.einsum('kab,bc,kdc->ad', x, b, x)

                return [over_norm(t, f) for t, f in zip(summed(term, b, heights), b, strict=True)]

            def find_right(a: list[jax.Array]) -> list[jax.Array]:
                def term(x: jax.Array, a: jax.Array) -> jax.Array:
                    return jnp.zeros((1, 1), x.dtype) if x.ndim == 2 else jnp.einsum('kab,ad,kdc->bc', x, a, x)

                found = [over_norm(t, f) for t, f in zip(summed(term, a, widths), a, strict=True)]
                return [x if len(shape) == 2 else jnp.ones_like(x) for x, shape in zip(found, shapes, strict=True)]

            heights = [shape[0] for shape in shapes]
            widths = [shape[1] if len(shape) == 2 else 1 for shape in shapes]
            b = [jnp.eye(n, dtype=theta.dtype) / math.sqrt(n) for n in widths]
            if any(len(shape) == 2 for shape in shapes):  # alternating least squares with exact steps
                b = lax.fori_loop(0, _PASSES, lambda _, b: find_right(find_left(b)), b)
            factors = zip(find_left(b), b, shapes, strict=True)
            return [(x, y) if len(shape) == 2 else (x,) for x, y, shape in factors]

        return self._jit(Curvature.kronecker, run, tuple(shapes))(scales, theta, data)

    # Internals

    def _jit(self, method: Callable, run: Callable, *settings: Any) -> Callable:
        return self.density.jit(method, (settings, self.kind, self.columns.tobytes()), lambda: run)

    def _groups(self) -> np.ndarray:
        """The group of each column: entries of a Param with element-wise prior and transform."""
        labels: list[int] = []
        for block in self.density.blocks:
            together = isinstance(block, ElementwiseBlock | HorseshoeBlock)
            for size in block.sizes:
                labels += [len(labels)] * size if together else range(len(labels), len(labels) + size)
        return np.unique(np.asarray(labels)[self.columns], return_inverse=True)[1]

    def _along_axes(self, one: Callable, data: Data) -> Any:
        """``one(i, axis i)`` for every column, in chunks that bound the memory."""
        largest = max([np.size(x) for x in jax.tree.leaves((data.args, data.kwargs, data.targets))], default=1)
        size = max(1, min(self.size, 128, _NUMBERS // max(1, largest)))
        axis = jax.vmap(lambda i: one(i, jax.nn.one_hot(i, self.size, dtype=self.density.dtype)))
        out = lax.map(axis, _chunked(self.size, size))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: self.size], out)

    def _over_observations(self, add: Callable, start: Any, theta: jax.Array, data: Data) -> Any:
        """``add(total, rows)`` over chunks of observations; the rows' outer products sum to J' F J."""
        num = np.shape(data.targets)[0]
        chunks = _chunked(num, max(1, min(64, _NUMBERS // self.size)))

        def step(total: Any, index: jax.Array) -> tuple[Any, None]:
            rows = jax.vmap(lambda i: self._rows(i, theta, data))(jnp.minimum(index, num - 1))
            rows = jnp.where(index[:, None, None] < num, rows, 0.0)
            return add(total, rows.reshape(-1, self.size)), None

        return lax.scan(step, start, chunks)[0]

    def _rows(self, i: jax.Array, theta: jax.Array, data: Data) -> jax.Array:
        """Root(F) J of one observation."""
        one = take(data, i[None])._replace(scale=data.scale)
        push, fisher, pull = self.information(self.part(theta), theta, one)
        outputs = jax.eval_shape(push, self.part(theta))
        zeros, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), outputs))
        matrix = jax.vmap(lambda o: ravel_pytree(fisher(unravel(o)))[0])(jnp.eye(len(zeros), dtype=zeros.dtype))
        values, vectors = jnp.linalg.eigh(matrix)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))
        return jax.vmap(lambda o: pull(unravel(o)))(root.T)


def _chunked(num: int, size: int) -> jax.Array:
    """0, 1, ... in rows of at most ``size``; the last row may exceed ``num``."""
    size = max(1, min(num, size))
    return jnp.arange(-(-num // size) * size).reshape(-1, size)


def chunks_of(rows: np.ndarray, size: int = 32) -> np.ndarray:
    """The rows in chunks of equal size, padded with zeros."""
    size = min(size, len(rows))
    num = -(-len(rows) // size)
    filled = np.zeros((num * size, rows.shape[1]), rows.dtype)
    filled[: len(rows)] = rows
    return filled.reshape(num, size, -1)
