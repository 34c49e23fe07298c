"""The fit by a Gaussian around the mode: draws, covariance, evidence, and predictions of the linearized model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from brainstate_prob.core.quantities import with_unit
from brainstate_prob.infer.density.batching import constrain, log_densities
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.networks import is_network
from brainstate_prob.infer.density.variables import columns_of
from brainstate_prob.infer.laplace.curvature import Curvature
from brainstate_prob.infer.laplace.gaussians import from_record, to_record
from brainstate_prob.infer.laplace.linearized import linearized_density, output_moments, predictive_of
from brainstate_prob.infer.laplace.structures import refuse_large
from brainstate_prob.infer.results.draws import Draws
from brainstate_prob.infer.results.fit import Fit
from brainstate_prob.infer.results.observations import refuse_unconditional
from brainstate_prob.infer.target.data import new_arguments
from brainstate_prob.infer.target.indices import refuse_out_of_range
from brainstate_prob.infer.target.posterior import Posterior
from brainstate_prob.infer.target.start import to_key
from brainstate_prob.infer.target.target import Target

if TYPE_CHECKING:
    from brainstate_prob.infer.table import Table

__all__ = ['LaplaceFit', 'fixed_terms', 'make_fit', 'refuse_own_density']


class LaplaceFit(Fit):
    """A `Fit` of draws from a Gaussian of theta around the mode.

    Made by `laplace` and `infer.marginal_likelihood`.

    Parameters
    ----------
    *args, **kwargs
        As for `Fit`.
    gaussian
        The Gaussian of the columns of theta that move, around zero.
    mode_theta
        Theta at the mode.
    moved
        These columns.
    arbitrary
        Of a fit that was loaded without its posterior: why its evidence is known up to a factor only.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from brainstate_prob import infer, nn
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
    ...
    ...     def __call__(self):
    ...         return dist.Normal(self.mu.value(), 1.0)
    >>> fit = infer.laplace(infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0])), progress=False)
    >>> round(float(fit.mode['mu']), 3), fit.covariance.round(3)
    (1.333, array([[0.333]]))
    """

    kind = 'laplace'

    def __init__(
        self,
        *args: Any,
        gaussian: Any,
        mode_theta: np.ndarray,
        moved: np.ndarray,
        arbitrary: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.gaussian, self.mode_theta, self.moved = gaussian, mode_theta, moved
        self._from_file = arbitrary

    @property
    def mode(self) -> Draws:
        """The values at the mode by path, with units."""
        states = self.posterior_for('mode').data.states
        values = constrain(self.density, self.mode_theta[None], states)
        return Draws({v.name: with_unit(values[v.name][0], v.parsed_unit) for v in self.variables})

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of theta, of shape (size, size); zero for Params fixed at the mode.

        ``fit.columns[path]`` says where a Param lies in theta.
        """
        refuse_large(len(self.mode_theta))
        roots = self._roots()
        return roots.T @ roots

    def _roots(self) -> np.ndarray:
        """Rows whose outer products sum to the covariance of theta."""
        refuse_large(self.gaussian.size)
        roots = np.zeros((self.gaussian.size, len(self.mode_theta)))
        roots[:, self.moved] = self.gaussian.spread(np.eye(self.gaussian.size))
        return roots

    @property
    def log_marginal_likelihood(self) -> float:
        """Laplace's estimate of log p(targets), or of log p(targets | fixed Params) if some are fixed.

        Raises
        ------
        ValueError
            Where a Param that moves has no prior, or a penalty without its constant: the number would be arbitrary. For
            a fit that was loaded with a posterior of other data than were fitted.
        """
        self.refuse_other_data('log_marginal_likelihood')
        if self._arbitrary():
            raise ValueError(self._arbitrary())
        return self.info['log_evidence']

    def _arbitrary(self) -> str | None:
        """The reason why the evidence is known only up to a factor; None if it is known."""
        if self.density is None:
            return self._from_file
        for entry in self.density.entries:
            if not np.isin(self.columns[entry.name], self.moved).any():
                continue
            reg = entry.reg
            if reg is None or not reg.proper or not getattr(reg, 'normalized', True):
                has = 'no prior' if reg is None else f'the unnormalized penalty {reg!r}'
                return (
                    f'Param {entry.name!r} has {has}, so that the marginal likelihood is only known up to a factor. '
                    'Give it a proper prior, or normalized=True.'
                )
        return None

    def _own_record(self) -> dict[str, Any]:
        return {
            'gaussian': to_record(self.gaussian),
            'mode_theta': self.mode_theta,
            'moved': self.moved,
            'arbitrary': self._arbitrary(),
        }

    @classmethod
    def _from_record(cls, own: dict[str, Any], moved: np.ndarray) -> dict[str, Any]:
        mode = np.empty_like(own['mode_theta'])
        mode[moved] = own['mode_theta']
        return {
            'gaussian': from_record(own['gaussian']),
            'mode_theta': mode,
            'moved': moved[own['moved']],
            'arbitrary': own['arbitrary'],
        }

    def predictive(self, inputs: Any = None) -> Any:
        """The predictive distribution of the linearized model in closed form, as a NumPyro distribution.

        The model's outputs are linear in theta around the mode. For normal targets the variance of the mean adds to
        that of the noise; for logits the probit approximation shrinks them. Magnitudes are in the unit of the targets.

        Parameters
        ----------
        inputs
            As for `Posterior`; default: those that were fitted.

        Raises
        ------
        NotImplementedError
            For other families: ``predict(inputs, linearized=True)`` draws from any.
        ValueError
            For a joint distribution of all targets at new inputs, as `predict`.
        """
        posterior = self.posterior_for('predictive')
        refuse_own_density(posterior, 'predictive')
        data = posterior.data
        if inputs is not None:
            args, kwargs = new_arguments(posterior.data, inputs)
            data = data._replace(args=args, kwargs=kwargs, targets=None)
            refuse_unconditional(self, inputs, data, None, 'predictive')
            refuse_out_of_range(posterior.density, posterior.theta, data, new=True)
        dtype = self.mode_theta.dtype
        with precision_of(self.density):
            return predictive_of(*output_moments(self.density, self.mode_theta, self._roots().astype(dtype), data))

    @property
    def linearized(self) -> bool:
        """Whether predictions use the linearized model by default.

        True with Gauss-Newton curvature (``curvature='ggn'``, ``structure='kronecker'``), whose Gaussian is that of
        that model, and for networks (two or more Params with two or more axes), of which draws of the weights
        themselves predict far worse: see Immer et al. (2021), "Improving predictions of Bayesian neural nets via local
        linearization". False elsewhere: draws then keep what is not linear in the model.
        """
        if self.posterior_for('predict').log_likelihood_function is not None:
            return False  # without a distribution of the targets there is nothing to linearize
        return self.info.get('curvature') == 'ggn' or is_network(self.density.entries)

    def predict(
        self, inputs: Any = None, targets: Any = None, *, linearized: bool | None = None, **options: Any
    ) -> Any:
        """The posterior predictive distribution of the targets, see `Fit.predict`.

        Parameters
        ----------
        inputs, targets, **options
            As for `Fit.predict`.
        linearized
            Predict by the model that is linear in theta around the mode, in its natural coordinates (means, logits, log
            rates), or by the model at draws of theta. Default: as `linearized` says.
        """
        return Fit.predict(self._predicting(linearized), inputs, targets, **options)

    def score(
        self, inputs: Any = None, targets: Any = None, *, linearized: bool | None = None, **options: Any
    ) -> Table:
        """Scores of the predictions, see `Fit.score`; ``linearized`` as for `predict`."""
        return Fit.score(self._predicting(linearized), inputs, targets, **options)

    def log_likelihood(
        self, batch_size: int | None = None, draws_at_once: int | None = None, *, linearized: bool | None = None
    ) -> np.ndarray:
        """The log-likelihood of each observation at each draw; ``linearized`` as for `predict`."""
        return Fit.log_likelihood(self._predicting(linearized), batch_size, draws_at_once)

    def _predicting(self, linearized: bool | None) -> Fit:
        """A plain fit for predictions: with draws of theta, or of (theta, mode) under the linearized density."""
        if linearized is not None and not isinstance(linearized, bool):
            raise TypeError(f'linearized must be True, False or None, got {linearized!r}.')
        target, thetas = self.target, self.thetas
        if self.linearized if linearized is None else linearized:
            posterior = self.posterior_for('predict')
            refuse_own_density(posterior, 'linearized=True')
            target = Target(posterior, linearized_density(self.density))
            thetas = np.concatenate([thetas, np.broadcast_to(self.mode_theta, thetas.shape)], axis=-1)
        plain = Fit(target, thetas, method=self.method, stats=self.stats, history=self.history, info=self.info)
        plain.has_other_data = self.has_other_data
        return plain


def make_fit(
    target: Target,
    programs: Curvature,
    theta: np.ndarray,
    value: float,
    gaussian: Any,
    num_draws: int,
    seed: Any,
    info: dict[str, Any],
    *,
    method: str = 'laplace',
    **kwargs: Any,
) -> LaplaceFit:
    """The fit of a Gaussian around ``theta``, with draws and the evidence."""
    moved = programs.columns
    theta = np.asarray(theta)
    key = np.ravel(np.asarray(jax.random.key_data(to_key(seed))))
    noise = np.random.default_rng(key.tolist()).standard_normal((num_draws, len(moved)))
    thetas = np.repeat(theta[None], num_draws, axis=0)
    thetas[:, moved] += gaussian.spread(noise).astype(theta.dtype)
    constant = gaussian.size / 2 * math.log(2 * math.pi) - gaussian.log_det / 2
    log_q = -constant - np.sum(noise**2, axis=1) / 2
    lp = log_densities(target.density, thetas, target.data)
    fixed = fixed_terms(target, theta, moved)
    return LaplaceFit(
        target,
        thetas[None],
        method=method,
        stats={'lp': lp[None], 'log_q': log_q[None].astype(lp.dtype)},
        info=info | {'log_evidence': value - fixed + constant},
        gaussian=gaussian,
        mode_theta=theta,
        moved=moved,
        **kwargs,
    )


def fixed_terms(target: Target, theta: np.ndarray, moved: np.ndarray) -> float:
    """The log priors and log-determinants of the fixed Params."""
    density = target.density
    columns = columns_of(density)
    names = [name for name in columns if not np.isin(columns[name], moved).any()]
    if not names:
        return 0.0
    terms = density.compiled(Density.terms)(theta, target.data)
    return float(sum(terms['prior'][name] + terms['log_det'][name] for name in names))


def refuse_own_density(posterior: Posterior, what: str) -> None:
    """Refuse a method that needs a distribution of the targets if only a log density is given.

    Raises
    ------
    ValueError
        Saying what to give instead.
    """
    if posterior.log_likelihood_function is not None:
        raise ValueError(
            f'{what} needs the distribution of the targets, but this posterior scores data by log_likelihood=f. Give '
            "the Posterior likelihood=f with f(model, *inputs) -> distribution, or use curvature='hessian'."
        )
