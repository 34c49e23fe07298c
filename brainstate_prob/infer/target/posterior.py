"""Posterior: a model, its data and its likelihood, the argument of every way to fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.core.calls import named
from brainstate_prob.core.quantities import split_unit, with_unit
from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import find_states
from brainstate_prob.infer.data.arrays import Data
from brainstate_prob.infer.data.quantities import InUnit, warn_of_unchecked
from brainstate_prob.infer.data.sharding import is_padded, is_sharded, shard_data, whole
from brainstate_prob.infer.data.support import refuse_impossible, warn_of_large_integers
from brainstate_prob.infer.density.blocks import Entry
from brainstate_prob.infer.density.classes import says_unit
from brainstate_prob.infer.density.log_density import Density, find_entries, scores_horseshoe
from brainstate_prob.infer.density.noise import draws_noise
from brainstate_prob.infer.density.noncentered import chosen
from brainstate_prob.infer.density.numpyro_model import NumPyroModel
from brainstate_prob.infer.density.refusals import refuse_equal_paths, refuse_for_sampling, refuse_narrow_priors
from brainstate_prob.infer.density.variables import check_coords, variables_of
from brainstate_prob.infer.target.check import check
from brainstate_prob.infer.target.data import call_arguments, checked_dims, checked_targets, magnitude_in
from brainstate_prob.infer.target.indices import refuse_out_of_range
from brainstate_prob.infer.target.inspection import inspected, no_leaks, refuse_changes
from brainstate_prob.infer.target.parameterization import chosen_by_data
from brainstate_prob.infer.target.reach import hidden_parameter_message
from brainstate_prob.infer.target.target import Target
from brainstate_prob.infer.words import refuse_no_function, what_is_no_model
from brainstate_prob.nn.adoption import adopted
from brainstate_prob.nn.module import Module

if TYPE_CHECKING:
    from brainstate_prob.infer.report import Report

__all__ = ['Posterior']


class Posterior:
    """The posterior of a model's parameters given data.

    Its log density is that of theta, the unconstrained coordinates: log prior + log likelihood + log-determinant.

    Parameters
    ----------
    model
        A Module with at least one trainable parameter, or a model that `brainstate_prob.interop.wrap` takes. It is
        read, and only written by ``fit.assign_to(model)``.
    inputs
        What the model is called with: one array, a tuple (positional arguments), a dict (keyword arguments) or None.
        Lists of numbers, pandas columns and the like are read by value; what is no number is refused. Integers are
        converted to JAX's default dtype (int32): arithmetic of uint8 would wrap at 256.
    targets
        The observations. Of a Quantity the magnitude in its own unit is scored; the unit is kept for results. What
        masks leave out (``dist.Normal(...).mask(mask)``) does not count, but has to be a number.
    likelihood
        ``likelihood(model, *inputs)`` gives a NumPyro distribution of the targets; default: the model itself does.
        Where targets have a unit it says that of what it predicts, by `of_quantities` or `with_unit`. A scalar
        prediction serves all targets; one with an axis of length 1 does not serve a longer one.
    log_likelihood
        In place of it, ``log_likelihood(model, *inputs, targets)`` (without targets if there are none) gives the log
        density of each observation, or their sum: a shape that is () or a leading part of the targets' shape (that is
        the whole, or without the axes of observed vectors). Without targets: () or one axis, that of the observations.
    coords
        Labels of named dims for results: ``{'group': ['a', 'b']}``. Params name theirs by ``Param(dims=...)``.
    dims
        Names of the data's axes for results: ``{'targets': ('time',), 'input_0': ('time', 'feature')}``. Inputs are
        ``input_0``, ``input_1``, ... by position, or have their keywords' names.

    Raises
    ------
    TypeError
        If the model is no Module or what it returns no NumPyro distribution.
    ValueError
        For no parameters, no observations, NaN in data, numbers that the present precision does not hold, predictions
        that do not have the targets' shape, targets outside a support that no parameter moves, priors narrower than
        their transform, dims or labels that do not fit.
    brainunit.UnitMismatchError
        For targets of another dimension than the model says.

    Warns
    -----
    UncheckedUnitWarning
        Where targets have a unit and the model does not say that of its predictions.
    PrecisionWarning
        Where single precision does not tell most values of a column apart, or rounds small numbers to 0.

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
    >>> posterior = infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0]))
    >>> round(float(posterior.log_density()), 4)
    -7.7568
    """

    fixed_choice: tuple[str, ...] | None = None  # the choice of noncentered='auto', where many data sets share it

    @named
    def __init__(
        self,
        model: Any,
        inputs: Any = None,
        targets: Any = None,
        *,
        likelihood: Callable | None = None,
        log_likelihood: Callable | None = None,
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Any] | None = None,
    ):
        model = adopted(model)
        if not isinstance(model, Module):
            raise TypeError(what_is_no_model(model))
        if likelihood is not None and log_likelihood is not None:
            raise ValueError('Give likelihood= or log_likelihood=, not both.')
        for name, f in (('likelihood', likelihood), ('log_likelihood', log_likelihood)):
            refuse_no_function(name, f)
        self.model = model
        self.likelihood = likelihood
        self.log_likelihood_function = log_likelihood
        self.coords = dict(coords or {})
        self.density = Density(model, likelihood, log_likelihood, expand=False)
        if not self.entries:
            raise ValueError(
                f'{type(model).__name__} has no trainable parameters. Give it nn.Param attributes (Const and '
                'fit=False are not trained; Params in a set, or in an object that is not an nn.Module, are not found).'
                + hidden_parameter_message(model)
            )
        refuse_equal_paths(self.entries)
        refuse_narrow_priors(self.entries)
        args, kwargs = self.inputs_of(inputs)
        self.targets_unit = targets.unit if isinstance(targets, u.Quantity) else u.UNITLESS
        magnitude = targets.mantissa if isinstance(targets, u.Quantity) else targets
        checked = None if targets is None else checked_targets(magnitude)
        # As an array, since a Python number would be copied to the device at every call.
        one = jnp.ones((), self.density.dtype)
        unit = None if self.targets_unit.is_unitless else InUnit(self.targets_unit)
        states = find_states(model)
        others = tuple(states[path].value for path in self.density.other_paths)
        self.data = Data(args, kwargs, checked, others, one, unit)
        self.dims = checked_dims(dims or {}, self.arrays)
        self.labels  # noqa: B018 checked here
        self.density, self.inspection = inspected(self.density, model, self.data)
        with no_leaks():
            self._inspect()
        refuse_changes(self.density, self.data, self.inspection)

    @classmethod
    def from_numpyro(cls, model: Callable, *args: Any, **kwargs: Any) -> Posterior:
        """The posterior of a NumPyro model, called with these arguments, data included.

        Its continuous latent sites are Params by name, with their priors; arrays among the arguments are arguments of
        compiled programs. With one observed site and no factor, that is the targets: predictions and calibration are
        there. Other arrays are the inputs.

        Raises
        ------
        ValueError
            For discrete latent sites, ``numpyro.param`` and plates with ``subsample_size``.
        TypeError
            For a model that looks at the values of its array arguments.

        Examples
        --------
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from brainstate_prob import infer
        >>> def model(y=None):
        ...     mu = numpyro.sample('mu', dist.Normal(0.0, 1.0))
        ...     numpyro.sample('y', dist.Normal(mu, 1.0), obs=y)
        >>> posterior = infer.Posterior.from_numpyro(model, jnp.array([1.0, 3.0]))
        >>> posterior.names
        ['mu']
        """
        module = NumPyroModel(model, args, kwargs)
        if module.targets is None:
            return cls(module, log_likelihood=NumPyroModel.log_likelihood)
        return cls(module, module.inputs, module.targets, likelihood=NumPyroModel.predicted)

    def replaced(self, **changes: Any) -> Posterior:
        """A copy with some attributes replaced, without new checks."""
        new = object.__new__(type(self))
        for name, value in {**vars(self), **changes}.items():
            setattr(new, name, value)
        return new

    __copy__ = replaced

    def __getstate__(self) -> dict[str, Any]:
        data = whole(self.data) if is_sharded(self.data) else self.data  # devices are not pickled
        return {**vars(self), 'data': data, 'dtype': self.density.dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        dtype = state.pop('dtype')
        if dtype == jnp.float64 and jnp.result_type(float) != jnp.float64:
            raise ValueError(
                'The Posterior that was pickled is in double precision, and JAX is in single precision here, which '
                "takes half of its digits. First call jax.config.update('jax_enable_x64', True) in this process."
            )
        vars(self).update(state)

    # Data

    @staticmethod
    def inputs_of(inputs: Any) -> tuple[tuple, dict]:
        """The positional and keyword arguments of the model given by ``inputs``, as arrays.

        Raises
        ------
        TypeError
            For what is no array of numbers: text, dates, functions, sets.
        ValueError
            For NaN, masked entries, and numbers that the present precision does not hold.
        """
        return call_arguments(inputs)

    def targets_of(self, targets: Any) -> jax.Array:
        """The magnitude of new targets in the unit of the posterior's targets.

        Raises
        ------
        brainunit.UnitMismatchError
            For targets of another dimension.
        ValueError
            As `inputs_of`.
        """
        unit = self.targets_unit
        if isinstance(targets, u.Quantity) or not unit.is_unitless:
            targets = magnitude_in(targets, unit)
        checked = checked_targets(targets)
        warn_of_large_integers(self, checked)
        return checked

    @property
    def arrays(self) -> dict[str, Any]:
        """The data by name: numeric inputs (keyword arguments by theirs, ``input_0``, ...) and ``targets``."""
        arrays = {}
        leaves = jax.tree_util.tree_flatten_with_path(
            (self.data.args, self.data.kwargs), is_leaf=lambda x: isinstance(x, u.Quantity) or is_padded(x)
        )
        for (side, *where), leaf in leaves[0]:
            leaf = leaf.whole() if is_padded(leaf) else leaf
            parts = [str(getattr(k, 'key', getattr(k, 'idx', getattr(k, 'name', k)))) for k in where]
            if not jax.dtypes.issubdtype(u.get_magnitude(leaf).dtype, jax.dtypes.extended):
                arrays[('' if side.idx else 'input_') + '.'.join(parts)] = leaf
        if self.data.targets is not None:
            targets = self.data.targets
            targets = targets.whole() if is_padded(targets) else targets
            arrays['targets'] = with_unit(targets, self.targets_unit)
        return arrays

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """The labels of the named dims."""
        shapes = {name: np.shape(u.get_magnitude(x)) for name, x in self.arrays.items()}
        axes = {name: (dims, shapes[name]) for name, dims in self.dims.items()}
        return check_coords(variables_of(self.entries), self.coords, axes)

    # Parameters

    @property
    def entries(self) -> list[Entry]:
        """The parameters in the order of their paths."""
        return self.density.entries

    @property
    def names(self) -> list[str]:
        """The dotted paths of the parameters."""
        return [e.name for e in self.entries]

    @property
    def num_observations(self) -> int:
        """The length of the targets' first axis; 1 for scalar targets, 0 without targets."""
        targets = self.data.targets
        return 0 if targets is None else int(np.shape(targets)[0]) if np.ndim(targets) else 1

    @property
    def theta(self) -> jax.Array:
        """The model's current parameters as one flat unconstrained vector."""
        return self.start(self.density)

    def start(self, density: Density) -> jax.Array:
        """The model's current parameters in the coordinates of ``density``."""
        thetas = {}
        for entry in find_entries(self.model):
            value = entry.state.value
            thetas[entry.name] = u.get_magnitude(
                value
                if entry.leaf is None
                else jax.tree.leaves(value, is_leaf=lambda x: isinstance(x, u.Quantity))[entry.leaf]
            )
        return density.flatten(thetas, self.data.states)

    @property
    def target(self) -> Target:
        """The log density in the parameters' own coordinates."""
        return Target(self, self.density)

    def sampling_target(self, noncentered: Any = 'auto', example: Data | None = None) -> Target:
        """The log density in the coordinates of samplers and guides: non-centred, horseshoes as scale mixtures.

        Parameters
        ----------
        noncentered
            Which hierarchical parameters are moved in standardized form, (theta - location) / scale, where location or
            scale of their prior are fitted Params: ``'auto'`` (by the data), True (all), False (none), a dotted path
            (``'effect[0, 3]'``: of these numbers, by their flat positions), a list of these, or a filter of
            (path, Param). Values and results are the same, coordinates are not. Where the data say little about a
            number, samplers avoid by it the funnel that scale and parameter make; where they say much, the centred form
            samples better. ``'auto'`` is centred where the likelihood's information about a number, times the square
            of its prior's scale, is above 1 at a typical point (`infer.target.parameterization`); numbers of one
            parameter are moved in one form unless these products differ tenfold.
        example
            The data by which ``'auto'`` chooses; default: the posterior's own.

        Raises
        ------
        ValueError
            For a parameter whose transform is not a bijection from all of R^n, or a model whose density is random.
        """
        refuse_for_sampling(self.entries)
        if draws_noise(self.density, self.theta, self.data):
            raise ValueError(
                'The model draws random numbers when it is called (dropout, noise), so its density is random. '
                'Samplers and '
                'guides need a fixed one: call it under environ.context(fit=False), or make the noise a parameter.'
            )
        if isinstance(noncentered, str) and noncentered == 'auto':
            names = chosen_by_data(self, example) if self.fixed_choice is None else self.fixed_choice
        else:
            names = chosen(self.entries, noncentered)
        expand = scores_horseshoe(self.entries)
        if not names and not expand:
            return self.target
        return Target(self, self.density.variant(expand, names))

    def with_carried(self, density: Density, values: tuple) -> Posterior:
        """The same posterior, with these running statistics of the model's layers."""
        if not values:
            return self
        return self.replaced(data=density.with_carried(self.data, values))

    def shard(self, devices: Any = None, *, axis: str | None = None) -> Posterior:
        """The same posterior with its observations sharded over devices, each of which computes its part.

        Targets, and inputs whose first axis has as many entries, are laid out by `jax.sharding.NamedSharding`; other
        inputs and the model are on every device. Every way to fit takes the result: the compiler splits the work and
        adds up what the devices find, so numbers agree with those of one device up to the rounding of sums. Where the
        devices do not divide the number of observations, rows are added that no compiled function sees.

        Chains and members are then vectorized, all of them on all devices. Minibatches hold the same observations as
        on one device; each batch is gathered to all of them.

        Parameters
        ----------
        devices
            Devices, their number, or a `jax.sharding.Mesh`; default all, those of other processes included.
        axis
            The axis of the mesh that observations go along, if it has several.

        Raises
        ------
        ValueError
            For more devices than there are, or than observations; for a posterior without targets.

        Examples
        --------
        >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> from brainstate_prob import infer, nn
        >>> class Mean(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        ...
        ...     def __call__(self):
        ...         return dist.Normal(self.mu.value(), 1.0)
        >>> posterior = infer.Posterior(Mean(), targets=jnp.array([1.0, 3.0])).shard(jax.devices()[:1])
        >>> round(float(posterior.log_density()), 4)
        -7.7568
        """
        return self.replaced(data=shard_data(self.data, devices, axis))

    # Evaluation

    def log_density(self, theta: Any = None, *, jacobian: bool = True) -> jax.Array:
        """The log density at a flat ``theta`` (default: the model's); without ``jacobian`` that of the values."""
        return self.density.compiled(Density.log_density, jacobian=jacobian)(self._theta(theta), self.data)

    def terms(self, theta: Any = None) -> dict[str, Any]:
        """The terms of the log density: ``{'prior': {path: ...}, 'log_det': {path: ...}, 'likelihood': ...}``."""
        return self.density.compiled(Density.terms)(self._theta(theta), self.data)

    def log_prior(self, theta: Any = None) -> jax.Array:
        """The log density of the parameters' values under their priors, at ``theta``."""
        return self.density.compiled(Density.log_prior)(self._theta(theta), self.data.states)

    def log_det(self, theta: Any = None) -> jax.Array:
        """The log-determinant of the map from ``theta`` to the parameters' values."""
        return self.density.compiled(Density.log_det)(self._theta(theta), self.data.states)

    def log_likelihood(self, theta: Any = None) -> jax.Array:
        """The log-likelihood of each observation at ``theta``; `terms` has their sum."""
        return self.density.compiled(Density.pointwise)(self._theta(theta), self.data)

    def constrain(self, theta: Any = None) -> dict[str, Any]:
        """The constrained values by path, with units."""
        values = self.density.compiled(Density.constrain)(self._theta(theta))
        return {e.name: with_unit(values[e.name], e.unit) for e in self.entries}

    def unconstrain(self, values: Mapping[str, Any]) -> jax.Array:
        """The flat theta of constrained values by path.

        Raises
        ------
        KeyError
            For a missing or unknown path.
        """
        if set(values) != set(self.names):
            raise KeyError(f'unconstrain needs exactly the paths {self.names}, got {list(values)}.')
        thetas = {}
        for e in self.entries:
            magnitude, _ = split_unit(values[e.name], e.name, e.unit)
            thetas[e.name] = e.t.inverse(magnitude)
        return self.density.flatten(thetas)

    def check(self, seed: Any = 0) -> Report:
        """Check the posterior for problems before fitting.

        Evaluates the log density, its parts and gradients at the start, near it and at draws from the priors. Finds
        starts that are not finite or far out in their prior; supports that targets can leave; Params that the
        likelihood never reads, priors and inputs that are never used; inputs and gradients on very different scales;
        noise by rounding; priors that do not predict anything like the targets.

        Parameters
        ----------
        seed
            An int or a key.

        Returns
        -------
        Report
            ``ok``, ``problems`` and ``notes`` in words, and a table of the parameters; printed, all of it.
        """
        return check(self, seed)

    def _theta(self, theta: Any) -> jax.Array:
        if theta is None:
            return self.theta
        theta = jnp.asarray(theta, self.density.dtype)
        if theta.shape != (self.density.size,):
            raise ValueError(f'theta must be one flat vector of {self.density.size} numbers, got shape {theta.shape}.')
        return theta

    def _inspect(self) -> None:
        """Evaluate once, so that errors of shapes, dtypes, supports and units appear before a long run."""
        refuse_out_of_range(self.density, self.theta, self.data)
        refuse_impossible(self.density, self.theta, self.data)
        warn_of_large_integers(self, self.data.targets)
        own = self.log_likelihood_function is not None
        if self.data.unit is not None and (own or not says_unit(self.density, self.theta, self.data)):
            warn_of_unchecked(self.targets_unit, own)

    def __repr__(self) -> str:
        return (
            f'Posterior({type(self.model).__name__}, {len(self.entries)} parameters of {self.density.size} numbers, '
            f'{self.num_observations} observations)'
        )
