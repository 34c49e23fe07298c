"""Exact draws of the parameters from their priors, compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from brainstate_prob.core import StateTrace
from brainstate_prob.graph.walk import find_states
from brainstate_prob.infer.density.blocks import Entry
from brainstate_prob.infer.density.classes import precision_of
from brainstate_prob.infer.density.log_density import Density
from brainstate_prob.infer.density.noncentered import depth_of
from brainstate_prob.nn.bijections import IdentityT, OrderedT

__all__ = ['independent_parts', 'prior_thetas', 'refuse_without_prior']

_TRIES = 10_000
_DRAWS, _NUMBERS = 1024, 2**22  # at most, of one compiled call


def prior_thetas(density: Density, num: int, key: jax.Array, start: jax.Array, states: tuple) -> np.ndarray:
    """Draws of the flat theta from the prior, (num, size); what has no prior stays at ``start``.

    Raises
    ------
    ValueError
        Where a prior hardly ever lies in its transform's codomain.
    """
    parts = independent_parts([e for e in density.entries if e.reg is not None])

    def draw(key: jax.Array, start: jax.Array, states: tuple) -> tuple[jax.Array, jax.Array]:
        thetas, inside = density.thetas(start, states), []
        for i, part in enumerate(parts):
            found, good = _drawn_part(density, part, jax.random.fold_in(key, i), thetas, states)
            thetas |= found
            inside.append(good)
        return density.flatten(thetas, states), jnp.stack(inside) if inside else jnp.ones(0, bool)

    size = max(1, min(_DRAWS, _NUMBERS // max(1, density.size)))

    def draw_some(key: jax.Array, first: jax.Array, num: jax.Array, start: jax.Array, states: tuple) -> tuple:
        def body(i: jax.Array, drawn: tuple) -> tuple:
            rows, all_inside = drawn
            row, inside = draw(jax.random.fold_in(key, first + i), start, states)
            return rows.at[i].set(row), all_inside & inside

        # As many rows always, of which ``num`` are drawn, so that another number of draws compiles nothing.
        nothing = jnp.zeros((size, density.size), density.dtype), jnp.ones(len(parts), bool)
        return lax.fori_loop(jnp.zeros_like(num), num, body, nothing)

    rows, inside = np.empty((num, density.size), density.dtype), np.ones(len(parts), bool)
    with precision_of(density):
        run = density.jit(prior_thetas, None, lambda: draw_some)
        for first in range(0, num, size):
            have = min(size, num - first)
            found, good = jax.device_get(run(key, np.int32(first), np.int32(have), start, states))
            rows[first : first + have], inside = found[:have], inside & good
    for part, good in zip(parts, inside, strict=True):
        if not good:
            raise ValueError(
                f'Param {part[-1].name!r}: of {_TRIES} draws from its prior {part[-1].reg!r} none lay in the codomain '
                f"{part[-1].t.codomain} of its transform. Give it a prior of that support, e.g. one of NumPyro's "
                'distributions truncated to it.'
            )
    return rows


def _drawn_part(density: Density, part: list[Entry], key: jax.Array, thetas: dict, states: tuple) -> tuple[dict, Any]:
    """Theta of entries that depend on each other, by name, and whether it lies inside all their codomains.

    They are drawn again, all of them, until it does: then they have the density that the posterior's prior is.
    """
    whole = {e.name: thetas[e.name] for e in part}
    single = _is_entry_by_entry(part)

    def again(loop: tuple) -> jax.Array:
        tries, _, good = loop
        return (tries < _TRIES) & ~jnp.all(good)

    def body(loop: tuple) -> tuple:
        tries, held, good = loop
        found, inside = dict(held), []
        with StateTrace() as trace:
            density._bind_others(trace, states)
            for i, e in enumerate(part):
                assert e.param is not None  # only Params have priors
                value = e.param._prior_draw(jax.random.fold_in(jax.random.fold_in(key, tries), i))
                if _is_exchangeable(e):
                    value = jnp.sort(value, axis=-1)
                theta = jnp.asarray(value if e.on_theta else e.t._inv(value), e.dtype)
                fits = jnp.isfinite(theta) if single else jnp.isfinite(theta).all()
                if not e.on_theta:
                    fits = fits & (e.t._in(value) if single else e.t._in(value).all())
                trace.bind(e.state, theta)
                found[e.name] = jnp.where(good, held[e.name], theta) if single else theta
                inside.append(fits)
        return tries + 1, found, good | inside[0] if single else jnp.stack(inside).all()

    start = jnp.zeros((), jnp.int32), whole, jnp.zeros(part[0].shape if single else (), bool)
    if all(isinstance(e.t, IdentityT) for e in part):  # any value will do
        _, found, good = body(start)
    else:
        _, found, good = lax.while_loop(again, body, start)
    return found, jnp.all(good)


def independent_parts(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that depend on each other together, in the order in which they can be drawn."""
    by_state = {e.state: e for e in entries}
    ordered = sorted(entries, key=lambda e: depth_of(e, list(entries)))
    part_of: dict[Entry, list[Entry]] = {}
    for e in ordered:
        above = [by_state[s] for s in find_states(e.reg).values() if s in by_state]
        joined = list(dict.fromkeys(x for a in above for x in part_of[a]))
        joined.append(e)
        for x in joined:
            part_of[x] = joined
    parts = list({id(part): part for part in part_of.values()}.values())
    return [sorted(part, key=ordered.index) for part in parts]


def _is_entry_by_entry(part: list[Entry]) -> bool:
    """Whether each number is drawn by itself, so that those outside can be drawn again alone."""
    (first, *more) = part
    assert first.reg is not None
    return not more and first.t.event_rank == 0 and first.reg.family_key() is not None


def _is_exchangeable(e: Entry) -> bool:
    """Whether to order draws is to draw from what the prior is of ordered values."""
    if not isinstance(e.t, OrderedT) or e.on_theta or e.reg is None or e.reg.family_key() is None:
        return False
    return all(jnp.ndim(x) == 0 for x in e.reg.hyper_values(e.unit).values())


def refuse_without_prior(e: Entry) -> None:
    """Refuse to draw a parameter that has no proper prior, or one with a weight."""
    if e.reg is None or not e.reg.proper:
        what = 'no prior' if e.reg is None else f'the prior {e.reg!r}, which cannot be normalized'
        raise ValueError(
            f'Parameter {e.name!r} has {what}, so there is nothing to draw it from. Give it a proper one: '
            'nn.Param(..., reg=dist.Normal(0.0, 1.0)), or nn.with_prior for the layers of a whole model.'
        )
    weight = e.reg.weight_value()
    if not isinstance(weight, jax.core.Tracer) and np.any(np.asarray(weight) != 1):
        raise ValueError(
            f'Param {e.name!r}: its prior {e.reg!r} has weight {np.asarray(weight).tolist()}, and a power of a density '
            'is not normalized. Write the weight into its scale (of a Gaussian: std / sqrt(weight)).'
        )
