"""The record of a fit: draws, statistics of the sampler, history, reports, and their form in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from brainstate_prob.infer.density.variables import Variable, columns_of, variables_of
from brainstate_prob.infer.density.wider import Beside, WiderDensity
from brainstate_prob.infer.results.draws import Draws
from brainstate_prob.infer.results.provenance import provenance_of
from brainstate_prob.infer.target.running_statistics import StatisticsDensity, paths_of, statistics_of
from brainstate_prob.infer.target.target import Target

__all__ = ['FitRecord']

_SAMPLER = {'acceptance_rate', 'diverging', 'energy', 'n_steps', 'step_size', 'tree_depth'}


class FitRecord:
    """The data of a `Fit`; its parameters are documented there.

    A subclass with more data defines ``kind``, `_own_record` and `_from_record` for files.
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, Any]] = {}
    guide_params: Any = None  # of SVI, by NumPyro's names
    has_other_data: bool = False  # whether its posterior has other data, or another likelihood, than were fitted
    _provenance: dict[str, Any] | None = None  # of a loaded fit: that of the file, {} if it has none

    def __init_subclass__(cls) -> None:
        if 'kind' in vars(cls):
            FitRecord.kinds[cls.kind] = cls

    def __init__(
        self,
        target: Target | None,
        thetas: Any,
        *,
        method: str,
        stats: Mapping[str, Any] | None = None,
        history: Mapping[str, Any] | None = None,
        info: Mapping[str, Any] | None = None,
        weights: Any = None,
    ):
        self.target = target
        posterior, density = self.posterior, self.density
        self.thetas = np.asarray(jax.device_get(thetas))
        self.method = method
        self.stats = {k: np.asarray(jax.device_get(v)) for k, v in (stats or {}).items()}
        self.history = {k: np.asarray(jax.device_get(v)) for k, v in (history or {}).items()}
        self.info = dict(info or {})
        self.weights = None if weights is None else np.asarray(jax.device_get(weights))
        self._check_shapes(None if density is None else density.size)
        self.variables: tuple[Variable, ...] = () if density is None else variables_of(density.entries)
        self.noncentered: tuple[str, ...] = () if density is None else density.noncentered
        self.columns: dict[str, np.ndarray] = {} if density is None else columns_of(density)
        self.coords: dict[str, np.ndarray] = {} if posterior is None else posterior.labels
        self._draws: Draws | None = None
        # The file's values of what needs the posterior.
        self._groups: dict[str, Any] | None = None
        self._statistics: dict[str, Any] = {}
        self._auxiliary_numbers: Beside | None = None

    @property
    def posterior(self) -> Any:
        """The fitted posterior; None for a fit loaded without it."""
        return None if self.target is None else self.target.posterior

    @property
    def density(self) -> Any:
        """The log density of the coordinates of `thetas`."""
        return None if self.target is None else self.target.density

    def _check_shapes(self, size: int | None) -> None:
        if self.thetas.ndim != 3 or 0 in self.thetas.shape[:2] or (size is not None and self.thetas.shape[2] != size):
            raise ValueError(
                f'thetas must have shape (chains, draws, {"size" if size is None else size}) with at least one draw, '
                f'got {self.thetas.shape}.'
            )
        for name, array in [*self.stats.items(), *([] if self.weights is None else [('weights', self.weights)])]:
            if array.shape[:2] != self.thetas.shape[:2]:
                raise ValueError(
                    f'{name} must have one entry per draw, shape {self.thetas.shape[:2]}, got {array.shape}.'
                )

    @property
    def num_chains(self) -> int:
        """The number of chains."""
        return self.thetas.shape[0]

    @property
    def num_draws(self) -> int:
        """The number of draws per chain."""
        return self.thetas.shape[1]

    @property
    def is_markov(self) -> bool:
        """Whether the draws are from Markov chains: they have sampler statistics, or there are several chains."""
        return self.num_chains > 1 or not _SAMPLER.isdisjoint(self.stats)

    @property
    def names(self) -> list[str]:
        """The dotted paths of the parameters."""
        return [v.name for v in self.variables]

    @property
    def rows(self) -> np.ndarray:
        """`thetas` with all draws along one axis, chain after chain."""
        return self.thetas.reshape(self.num_chains * self.num_draws, -1)

    @property
    def running_statistics(self) -> dict[str, Any]:
        """The running statistics (BatchNorm) for predictions, by path.

        If each draw has its own (`has_own_statistics`), as with `infer.ensemble` under ``environ.context(fit=True)``,
        arrays have the axes (chains, draws, ...).
        """
        if isinstance(self.density, StatisticsDensity):
            values = self.density.statistics(self.thetas, self.posterior.data.states)
            return dict(zip(paths_of(self.density), values, strict=True))
        if self.posterior is not None:
            return statistics_of(self.posterior)
        if self.has_own_statistics:
            return self._auxiliary().statistics()
        return dict(self._statistics)

    @property
    def has_own_statistics(self) -> bool:
        """Whether each draw has running statistics of its own."""
        return self._auxiliary().kind == StatisticsDensity.kind

    def refuse_other_data(self, what: str) -> None:
        """Refuse ``what`` if the posterior has other data than were fitted.

        Raises
        ------
        ValueError
            With the posterior to use.
        """
        if self.has_other_data:
            raise ValueError(
                f'{what} is about the data that were fitted, and this fit has a posterior of other data, or of another '
                'likelihood. Give it (infer.load, fit.with_posterior) a posterior of the data that were fitted, or fit '
                'these. fit.score() and fit.predict() are of the posterior that it has.'
            )

    # For files

    def provenance(self) -> dict[str, Any] | None:
        """The fingerprint of model and data (`provenance`); None if a file has none."""
        if self._provenance is not None or self.posterior is None:
            return self._provenance or None
        return provenance_of(self.posterior)

    def _auxiliary(self) -> Beside:
        """The auxiliary numbers appended to theta: seeds of masks, running statistics."""
        if not isinstance(self.density, WiderDensity):
            return Beside.from_record(None) if self._auxiliary_numbers is None else self._auxiliary_numbers
        numbers = self.thetas[..., self.density.base.size :]
        paths = paths_of(self.density) if isinstance(self.density, StatisticsDensity) else []
        values = tuple(self.posterior.data.states[i] for i in self.density.carried) if paths else ()
        leaves = jax.tree.unflatten(jax.tree.structure(values), range(len(jax.tree.leaves(values))))
        return Beside(self.density.kind, self.density.outline, numbers, dict(zip(paths, leaves, strict=True)))

    def _own_record(self) -> dict[str, Any]:
        """The additional data of a subclass, as plain data and arrays."""
        return {}

    @classmethod
    def _from_record(cls, own: dict[str, Any], moved: np.ndarray) -> dict[str, Any]:
        """Keyword arguments of a subclass from its `_own_record`; number i of theta in the file is now ``moved[i]``."""
        return {}
