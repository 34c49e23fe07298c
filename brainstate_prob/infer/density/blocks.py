"""Blocks: stretches of theta that are computed as one expression.

Entries with the same transform family and the same prior family form one block, so that the number of operations
depends on the number of families and not on the number of parameters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

from brainstate_prob.core import State
from brainstate_prob.core.quantities import with_unit
from brainstate_prob.core.units import u
from brainstate_prob.graph.walk import dotted, find_states
from brainstate_prob.infer.density.noncentered import depth_of, places_of, standard_form
from brainstate_prob.nn.bijections import IdentityT, Transform, from_family
from brainstate_prob.nn.param import Param
from brainstate_prob.nn.priors import HorseshoeReg, Regularization
from brainstate_prob.nn.priors.densities import log_density

__all__ = ['Block', 'Entry', 'make_blocks']


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One parameter: a `Param`, or one array of a bare `ParamState`."""

    path: tuple
    state: State
    param: Param | None
    shape: tuple[int, ...]
    dtype: Any
    unit: u.Unit
    leaf: int | None = None  # which leaf of the State's value, where that is a pytree

    @property
    def name(self) -> str:
        return dotted(self.path)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def t(self) -> Transform:
        return IdentityT() if self.param is None else self.param._numeric_t()

    @property
    def reg(self) -> Regularization | None:
        return None if self.param is None else self.param.reg

    @property
    def on_theta(self) -> bool:
        return self.param is not None and self.param.prior_on == 'unconstrained'

    @property
    def value_shape(self) -> tuple[int, ...]:
        return tuple(self.t.forward_shape(self.shape))

    @property
    def dims(self) -> tuple[str, ...] | None:
        return None if self.param is None else self.param.dims


class Block:
    """One entry whose transform or prior is an expression of its own.

    ``forward`` gives the block's constrained values, ``log_det`` and ``log_prior`` arrays that `split_terms` attributes
    to the entries.
    """

    def __init__(self, entries: Sequence[Entry]):
        self.entries = tuple(entries)
        self.sizes = tuple(e.size for e in entries)
        self.size = sum(self.sizes)
        self.t = entries[0].t

    @property
    def entry(self) -> Entry:
        return self.entries[0]

    def start(self, thetas: Sequence[Any]) -> list[Any]:
        """The block's segment of the flat vector, from the entries' own theta."""
        return [jnp.ravel(theta) for theta in thetas]

    def pieces(self, theta: jax.Array, value: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        """Pairs (theta, constrained value) of the entries, in their shapes."""
        return [(theta.reshape(self.entry.shape), value)]

    def forward(self, theta: jax.Array) -> jax.Array:
        return self.t.forward(theta.reshape(self.entry.shape))

    def log_det(self, theta: jax.Array, value: jax.Array) -> jax.Array:
        if self.entry.on_theta:
            return jnp.zeros((), theta.dtype)
        return jnp.sum(self.t.log_abs_det_jacobian(theta.reshape(self.entry.shape), value))

    def log_prior(self, theta: jax.Array, value: jax.Array) -> jax.Array | None:
        entry = self.entry
        if entry.reg is None:
            return None
        if entry.on_theta:
            return -entry.reg.loss(theta.reshape(entry.shape))
        return -entry.reg.loss(with_unit(value, entry.unit))

    def log_joint(self, theta: jax.Array, value: jax.Array) -> jax.Array:
        """The log density of the block's segment: prior and log-determinant together."""
        prior, log_det = self.log_prior(theta, value), jnp.sum(self.log_det(theta, value))
        return log_det if prior is None else jnp.sum(prior) + log_det

    def split_terms(self, term: jax.Array | None) -> list[jax.Array]:
        """The sum over each entry of what `log_det` or `log_prior` gave."""
        return [jnp.zeros(()) if term is None else term]


class ElementwiseBlock(Block):
    """Entries of one element-wise transform family and one element-wise prior family, in one expression."""

    def __init__(self, entries: Sequence[Entry]):
        super().__init__(entries)
        key = self.t.family_key()
        stacked = _stack_constants([e.t.family_params() for e in entries], entries)
        self.t = from_family(key, stacked)
        self._regs = [e.reg for e in entries]
        self._fixed = None
        if self._regs[0] is not None and not any(find_states(reg) for reg in self._regs):
            self._fixed = _stack_constants([self._hypers(e) for e in entries], entries)

    @staticmethod
    def _hypers(entry: Entry) -> dict[str, Any]:
        reg = entry.reg
        assert reg is not None
        unit = u.UNITLESS if entry.on_theta else entry.unit
        return {**reg.hyper_values(unit), 'weight': reg.weight_value()}

    def pieces(self, theta, value):
        thetas, values = lax.split(theta, self.sizes), lax.split(value, self.sizes)
        return [(x.reshape(e.shape), y.reshape(e.shape)) for e, x, y in zip(self.entries, thetas, values, strict=True)]

    def forward(self, theta):
        return self.t.forward(theta)

    def log_det(self, theta, value):
        if self.entry.on_theta:
            return jnp.zeros_like(theta)
        return jnp.broadcast_to(self.t.log_abs_det_jacobian(theta, value), theta.shape)

    def log_prior(self, theta, value):
        if self._regs[0] is None:
            return None
        hypers = self._fixed
        if hypers is None:
            hypers = _stack_traced([self._hypers(e) for e in self.entries], self.entries)
        hypers = dict(hypers)
        weight = hypers.pop('weight')
        return weight * self._regs[0].family_log_prob(hypers, theta if self.entry.on_theta else value)

    def split_terms(self, term):
        if term is None:
            return [jnp.zeros(()) for _ in self.entries]
        return [jnp.sum(part) for part in lax.split(term, self.sizes)]


class HorseshoeBlock(Block):
    """A horseshoe parameter as its non-centred scale mixture: value = z * tau * lambda, lambda half-Cauchy.

    Its segment of theta is (z, log lambda). The marginal density has a pole at zero that samplers cannot walk around;
    the mixture has none.
    """

    def __init__(self, entries: Sequence[Entry]):
        super().__init__(entries)
        self.sizes = (2 * self.entry.size,)
        self.size = 2 * self.entry.size

    def start(self, thetas):
        value = jnp.ravel(thetas[0])
        return [value / self._tau(), jnp.zeros_like(value)]

    def _tau(self) -> jax.Array:
        reg = self.entry.reg
        assert isinstance(reg, HorseshoeReg)
        return reg.scale_mixture(self.entry.unit)['tau']

    def _parts(self, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        return theta[: self.entry.size], theta[self.entry.size :]

    def forward(self, theta):
        z, log_lambda = self._parts(theta)
        return (z * self._tau() * jnp.exp(log_lambda)).reshape(self.entry.shape)

    def pieces(self, theta, value):
        return [(value, value)]

    def log_det(self, theta, value):
        return jnp.sum(self._parts(theta)[1])

    def log_prior(self, theta, value):
        z, log_lambda = self._parts(theta)
        return jnp.sum(dist.Normal().log_prob(z) + dist.HalfCauchy().log_prob(jnp.exp(log_lambda)))


class NoncenteredBlock(ElementwiseBlock):
    """Hierarchical entries of one family, standardized: own theta = location + scale * z, and the segment is z.

    Where only some numbers of the entries are non-centred, the segment is own theta in the place of the others.

    The terms are those of the value, so that they agree with the centred ones: the prior's density at it, and as the
    log-determinant that of the whole map. In `log_joint` the scale, which cancels, is left out.

    Parameters
    ----------
    standardized
        By entry, which of its numbers are non-centred (flat positions); None: all.
    """

    def __init__(self, entries: Sequence[Entry], standardized: Sequence[tuple[int, ...] | None] = ()):
        super().__init__(entries)
        form = standard_form(self._regs[0])
        assert form is not None
        self._form = form
        self._mask: np.ndarray | None = None
        if any(places is not None for places in standardized):
            masks = [np.ones(e.size, bool) for e in entries]
            for mask, places in zip(masks, standardized, strict=True):
                if places is not None:
                    mask[:] = False
                    mask[list(places)] = True
            self._mask = np.concatenate(masks)

    def _hypers_now(self) -> tuple[Any, Any, dict[str, Any]]:
        hypers = _stack_traced([self._hypers(e) for e in self.entries], self.entries)
        hypers.pop('weight')
        dtype = self.entries[0].dtype
        return self._form.split({name: jnp.asarray(value, dtype) for name, value in hypers.items()})

    def location_scale(self) -> tuple[Any, Any]:
        """Location and scale of the prior, inside `Density.open`."""
        loc, scale, _ = self._hypers_now()
        return loc, scale

    def _map(self) -> tuple[Any, Any]:
        """What shifts and stretches the segment to own theta: nothing where it is centred."""
        loc, scale = self.location_scale()
        if self._mask is None:
            return loc, scale
        return jnp.where(self._mask, loc, 0.0), jnp.where(self._mask, scale, 1.0)

    def _own(self, segment: jax.Array) -> jax.Array:
        shift, stretching = self._map()
        return shift + stretching * segment

    def _left(self) -> tuple[Any, Any, dict[str, Any]]:
        """Location and scale in the density of the segment itself: 0 and 1 where it is standardized."""
        loc, scale, rest = self._hypers_now()
        if self._mask is None:
            return 0.0, 1.0, rest
        return jnp.where(self._mask, 0.0, loc), jnp.where(self._mask, 1.0, scale), rest

    def standard_log_density(self, segment: jax.Array) -> jax.Array:
        """The log density of the standardized value, by number."""
        loc, scale, rest = self._left()
        z = segment if self._mask is None else (segment - loc) / scale
        return log_density(self._form.kind, {'loc': 0.0, 'scale': 1.0, **rest}, z)

    def standardized_prior(self, segment: jax.Array) -> jax.Array:
        """The log density of the standardized numbers alone."""
        density = self.standard_log_density(segment)
        return jnp.sum(density if self._mask is None else jnp.where(self._mask, density, 0.0))

    def start(self, thetas):
        shift, stretching = self._map()
        return [(jnp.concatenate(super().start(thetas)).astype(self.entries[0].dtype) - shift) / stretching]

    def pieces(self, theta, value):
        return super().pieces(self._own(theta), value)

    def forward(self, theta):
        return self.t.forward(self._own(theta))

    def log_det(self, theta, value):
        return super().log_det(self._own(theta), value) + jnp.log(self._map()[1])

    def log_prior(self, theta, value):
        _, scale = self.location_scale()
        density = self.standard_log_density(theta) - jnp.log(scale)
        return density - self._own(theta) if self._form.of_log else density

    def log_joint(self, theta, value):
        density = self.standard_log_density(theta)
        return jnp.sum(density if self._mask is None else density - jnp.log(self._left()[1]))


def make_blocks(entries: Sequence[Entry], expand: bool, noncentered: Sequence[str] = ()) -> list[Block]:
    """Group the entries.

    Parameters
    ----------
    expand
        Write horseshoe priors as scale mixtures, as samplers and guides need.
    noncentered
        The names of hierarchical entries that are standardized, or of some of their numbers (`noncentered.places_of`).
    """
    standardized = places_of(noncentered)
    groups: dict[Hashable, list[Entry]] = {}
    blocks: list[Block] = []
    mixed: dict[Hashable, list[Entry]] = {}  # last, in the order of their depth: they read hyper-parameters of others
    for entry in entries:
        if expand and is_horseshoe(entry):
            mixed[depth_of(entry, list(entries)), entry.name] = [entry]
            continue
        key = _group_key(entry)
        if key is None:
            blocks.append(Block([entry]))
        elif entry.name in standardized:
            mixed.setdefault((depth_of(entry, list(entries)), key), []).append(entry)
        else:
            groups.setdefault(key, []).append(entry)
    mixtures: list[Block] = [
        NoncenteredBlock(group, [standardized[e.name] for e in group])
        if group[0].name in standardized
        else HorseshoeBlock(group)
        for _, group in sorted(mixed.items(), key=lambda item: item[0][0])  # type: ignore[index]
    ]
    return [ElementwiseBlock(group) for group in groups.values()] + blocks + mixtures


def is_horseshoe(entry: Entry) -> bool:
    """Whether the entry's prior is expanded for samplers: a horseshoe of weight 1 on an untransformed value."""
    if not isinstance(entry.reg, HorseshoeReg) or not isinstance(entry.t, IdentityT) or entry.on_theta:
        return False
    return isinstance(entry.reg.weight, int | float) and entry.reg.weight == 1


def _group_key(entry: Entry) -> Hashable | None:
    t, reg = entry.t, entry.reg
    t_key = t.family_key() if t.event_rank == 0 else None
    reg_key = None if reg is None else reg.family_key()
    if t_key is None or (reg is not None and reg_key is None):
        return None
    return t_key, reg_key, entry.on_theta, str(entry.dtype)


def _stack_constants(dicts: Sequence[dict[str, Any]], entries: Sequence[Entry]) -> dict[str, Any]:
    """Numbers by name for all elements of the entries: one number where all agree, else one a element."""
    stacked: dict[str, Any] = {}
    for name in dicts[0]:
        values = [np.asarray(d[name]) for d in dicts]
        if all(v.ndim == 0 for v in values) and all(v == values[0] for v in values):
            stacked[name] = values[0].item()
        else:
            flat = [np.broadcast_to(v, e.shape).ravel() for v, e in zip(values, entries, strict=True)]
            stacked[name] = np.concatenate(flat).astype(entries[0].dtype)
    return stacked


def _stack_traced(dicts: Sequence[dict[str, Any]], entries: Sequence[Entry]) -> dict[str, Any]:
    """As `_stack_constants` for hyper-parameters that are Params; those that entries share are stacked once."""
    stacked: dict[str, Any] = {}
    for name in dicts[0]:
        values = [d[name] for d in dicts]
        distinct = list({id(v): v for v in values}.values())
        if len(distinct) == 1 and jnp.ndim(distinct[0]) == 0:
            stacked[name] = distinct[0]
        elif all(jnp.ndim(v) == 0 for v in distinct):
            place = {id(v): i for i, v in enumerate(distinct)}
            which = np.repeat([place[id(v)] for v in values], [e.size for e in entries])
            stacked[name] = jnp.stack([jnp.asarray(v, entries[0].dtype) for v in distinct])[which]
        else:
            stacked[name] = jnp.concatenate(
                [jnp.ravel(jnp.broadcast_to(v, e.shape)) for v, e in zip(values, entries, strict=True)]
            )
    return stacked
