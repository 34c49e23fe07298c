"""A linear layer whose weights are the stored entries of a sparse matrix."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core import ParamState, State
from brainstate_prob.core.quantities import magnitude_and_unit, with_unit
from brainstate_prob.core.units import u
from brainstate_prob.nn.layers.shapes import SizedModule, add_bias, as_array, check_input, label
from brainstate_prob.nn.weights import weights

__all__ = ['SparseLinear']


class SparseLinear(SizedModule):
    """A linear layer with a sparse weight: y = x S + b; only the stored entries are trained.

    Parameters
    ----------
    spar_mat
        S, shape (in, out): a matrix of `brainunit.sparse`, of ``jax.experimental.sparse`` (BCOO, BCSR) or of
        ``scipy.sparse``. Duplicate entries are summed.
    b_init
        The bias (out,), see `Linear`; None: no bias.
    in_size
        The size of one sample, ending in the number of rows, which is also its default.
    param_type
        The State at path ``('weight',)``: the stored entries, in their order, under ``'weight'``.

    Raises
    ------
    TypeError
        If ``spar_mat`` is not a sparse matrix.
    ValueError
        For an ``in_size`` or input that does not end in the number of rows.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jax.experimental import sparse
    >>> from brainstate_prob import nn
    >>> layer = nn.SparseLinear(sparse.BCOO.fromdense(jnp.array([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]])))
    >>> layer(jnp.ones((5, 2)))[0], layer.weight.value['weight'].shape
    (Array([2., 1., 3.], dtype=float32), (3,))
    """

    def __init__(
        self,
        spar_mat: Any,
        b_init: Any = None,
        in_size: Any = None,
        name: str | None = None,
        param_type: type[State] = ParamState,
    ):
        super().__init__(name)
        data, self.rows, self.cols = _entries(spar_mat)
        n_in, n_out = spar_mat.shape
        self.in_size = n_in if in_size is None else in_size
        self.out_size = (*self.in_size[:-1], n_out)
        if self.in_size[-1] != n_in:
            raise ValueError(f'{label(self)}: in_size must end in {n_in}, the rows of the matrix; got {self.in_size}.')
        self.weight = weights(self, param_type, weight=(data, self.rows.shape), bias=(b_init, (n_out,)))

    def update(self, x):
        check_input(self, x)
        made = self.weight.value
        products = as_array(x)[..., self.rows] * made['weight']
        values, unit = magnitude_and_unit(products)
        total = jnp.zeros((*values.shape[:-1], self.out_size[-1]), values.dtype).at[..., self.cols].add(values)
        return add_bias(self, with_unit(total, unit), made.get('bias'))


def _entries(matrix: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """The stored entries of a sparse matrix with their rows and columns, without padding."""
    if len(getattr(matrix, 'shape', ())) != 2 or isinstance(matrix, jax.Array | np.ndarray | u.Quantity):
        raise TypeError(
            f'SparseLinear needs a sparse matrix of brainunit.sparse, jax.experimental.sparse (BCOO, BCSR) or '
            f'scipy.sparse, got {type(matrix).__name__}; a dense one becomes sparse by '
            'jax.experimental.sparse.BCOO.fromdense.'
        )
    kind = type(matrix).__name__
    if hasattr(matrix, 'row') and hasattr(matrix, 'col'):
        rows, cols = matrix.row, matrix.col
    elif hasattr(matrix, 'indptr'):
        index = np.asarray(matrix.indices)
        outer = np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(np.asarray(matrix.indptr)))
        rows, cols = (index[: outer.size], outer) if kind.lower().startswith('csc') else (outer, index[: outer.size])
    elif hasattr(matrix, 'indices'):
        rows, cols = np.asarray(matrix.indices).T
    elif hasattr(matrix, 'tocoo'):
        return _entries(matrix.tocoo())
    else:
        raise TypeError(f'SparseLinear does not know the sparse format {kind}; convert it to BCOO, CSR or COO.')
    rows, cols = np.asarray(rows, np.int32), np.asarray(cols, np.int32)
    stored = np.flatnonzero((rows < matrix.shape[0]) & (cols < matrix.shape[1]))
    data = matrix.data if isinstance(matrix.data, u.Quantity) else jnp.asarray(matrix.data)
    return data[stored], rows[stored], cols[stored]
