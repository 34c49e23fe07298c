"""One model that has everything a result must carry: units, dims, a hierarchy, a simplex, a horseshoe, bare States."""

import contextlib
import functools

import brainunit as u
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from brainstate_prob import infer, nn
from brainstate_prob.core import ParamState


class RichModel(nn.Module):
    def __init__(self, dtype=None, size=3):
        super().__init__()
        array = functools.partial(jnp.asarray, dtype=dtype or jnp.float32)
        self.scale = nn.Param(array(1.0), t=nn.SoftplusT(), reg=nn.GammaReg(alpha=2.0, beta=1.0))
        self.w = nn.Param(
            array(np.linspace(0.1, 0.3, size)), reg=nn.GaussianReg(0.0, std=self.scale), dims=('feature',)
        )
        self.rate = nn.Param(array(2.0) * u.Hz, t=nn.ExpT(0.0 * u.Hz), reg=dist.LogNormal(0.0, 1.0))
        self.mix = nn.Param(array([0.2, 0.3, 0.5]), t=nn.SimplexT(), reg=dist.Dirichlet(jnp.ones(3)))
        self.sparse = nn.Param(array([0.1, -0.2]), reg=nn.HorseshoeReg(tau=0.5))
        self.bare = ParamState({'a': array([0.0, 0.5]), 'b': array(1.0) * u.mV})
        self.gain = nn.Const(3.0)

    def __call__(self, x):
        rate = u.get_magnitude(self.rate.value())
        offset = self.sparse.value().sum() + self.bare.value['a'].sum() + self.mix.value()[0] * self.gain.value()
        return dist.Normal(x @ self.w.value() + rate + offset, jnp.exp(u.get_magnitude(self.bare.value['b']) / 2))


COORDS = {'feature': ['left', 'right', 'up']}


def in_millivolt(model, *inputs):
    """What a model of plain numbers predicts, as of quantities."""
    return infer.with_unit(model(*inputs), u.mV)


def rich_posterior(dtype=np.float32, num=20, seed=0):
    """20 observations in mV."""
    x = np.random.default_rng(seed).normal(size=(num, 3))
    return infer.Posterior(
        RichModel(dtype),
        jnp.asarray(x, dtype),
        jnp.asarray(x.sum(1) + 3.0, dtype) * u.mV,
        likelihood=in_millivolt,
        coords=COORDS,
    )


def scattered(posterior, target=None, chains=2, draws=30, seed=0, spread=0.2, **kwargs):
    """A Fit of points around the model's start, as a sampler would give them."""
    target = target or posterior.sampling_target(True)
    noise = spread * np.random.default_rng(seed).normal(size=(chains, draws, target.size))
    thetas = np.asarray(target.start + noise, target.dtype)
    stats = {
        'lp': np.zeros((chains, draws), 'f4'),
        'diverging': np.arange(chains * draws).reshape(chains, draws) % 7 == 0,
    }
    defaults = {'method': 'nuts', 'stats': stats, 'history': {'loss': np.arange(3.0)}, 'info': {'seconds': 1.5}}
    return infer.Fit(target, thetas, **(defaults | kwargs))


@contextlib.contextmanager
def compilations():
    """The names of what JAX traces and compiles in the block, without the one trace of each new Posterior."""
    events = []

    def listen(name, *_, **about):
        if about.get('fun_name') != 'inspected_terms' and ('compile' in name or 'trace' in name):
            events.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
