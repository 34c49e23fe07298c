"""The log density with its gradient: of an ordinary model, and of many scalar Params of mixed families.

Beside hand-written JAX with one expression a parameter, and beside NumPyro's potential, in one run:

    python benchmarks/density.py            # 100 Params against both, 1000 ours alone
    python benchmarks/density.py --long     # 1000 against both too, each in a process with a limit of 100 s
"""

from __future__ import annotations

import argparse
import multiprocessing

import jax
import jax.numpy as jnp
import jax.scipy.stats as jss
import numpy as np
import numpyro
import numpyro.distributions as dist
from _timing import build_seconds, interleaved
from jax import lax
from numpyro.infer.util import initialize_model

from brainstate_prob import infer, nn

STEPS = 100  # evaluations in one compiled loop, so that a call's dispatch does not count


# Many scalar parameters of five families, each read by the likelihood

FAMILIES = (
    (dist.Gamma(2.0, 1.0), 1.0),
    (dist.Normal(0.0, 1.0), 0.0),
    (dist.Beta(2.0, 3.0), 0.5),
    (dist.LogNormal(0.0, 1.0), 1.0),
    (dist.StudentT(3.0, 0.0, 1.0), 0.0),
)


class Mixed(nn.Module):
    """Scalar Params of the five families in turn, each read by the likelihood."""

    def __init__(self, num):
        super().__init__()
        self.p = [nn.Param(FAMILIES[i % 5][1], t=None, reg=FAMILIES[i % 5][0]) for i in range(num)]

    def __call__(self, x):
        mean = 0.0
        for i, p in enumerate(self.p):
            mean = mean + p.value() * x[i % 7]
        return dist.Normal(mean, 1.0)


def ours(num):
    x, y = jnp.linspace(-1.0, 1.0, 7), jnp.ones(7)
    posterior = infer.Posterior(Mixed(num), x, y)
    return lambda theta, data: posterior.density.log_density(theta, data), posterior.theta, posterior.data


def by_hand(num):
    """One expression a parameter, as a modeller would write it."""

    def density(theta, data):
        x, y = data
        total, mean = 0.0, 0.0
        for i in range(num):
            t, kind = theta[str(i)], i % 5
            if kind == 0:
                v = jax.nn.softplus(t)
                total = total + jss.gamma.logpdf(v, 2.0) + jax.nn.log_sigmoid(t)
            elif kind == 1:
                v = t
                total = total + jss.norm.logpdf(v)
            elif kind == 2:
                v = jax.nn.sigmoid(t)
                total = total + jss.beta.logpdf(v, 2.0, 3.0) + jax.nn.log_sigmoid(t) + jax.nn.log_sigmoid(-t)
            elif kind == 3:
                v = jnp.exp(t)
                total = total + jss.norm.logpdf(t)
            else:
                v = t
                total = total + jss.t.logpdf(v, 3.0)
            mean = mean + v * x[i % 7]
        return total + jss.norm.logpdf(y, mean, 1.0).sum()

    return density, {str(i): jnp.zeros(()) for i in range(num)}, (jnp.linspace(-1.0, 1.0, 7), jnp.ones(7))


def in_numpyro(num):
    def model(x, y):
        mean = 0.0
        for i in range(num):
            mean = mean + numpyro.sample(f'p{i}', FAMILIES[i % 5][0]) * x[i % 7]
        numpyro.sample('y', dist.Normal(mean, 1.0), obs=y)

    data = (jnp.linspace(-1.0, 1.0, 7), jnp.ones(7))
    info = initialize_model(jax.random.key(0), model, model_args=data, dynamic_args=True)
    return lambda theta, d: -info.potential_fn(*d)(theta), info.param_info.z, data


def loop_of(density):
    """Value and gradient STEPS times in one program, each from what the last one gave."""

    def run(theta, data):
        def body(_, theta):
            grads = jax.grad(density)(theta, data)
            return jax.tree.map(lambda t, g: t + 1e-6 * g, theta, grads)

        return lax.fori_loop(0, STEPS, body, theta)

    return run


def measure(make, num):
    density, theta, data = make(num)
    traced, compiled, _ = build_seconds(jax.value_and_grad(density), theta, data)
    _, _, loop = build_seconds(loop_of(density), theta, data)
    return traced, compiled, lambda: loop(theta, data)


def report(name, traced, compiled, per_call):
    print(
        f'  {name:14} trace {traced:7.2f} s   compile {compiled:7.2f} s   value and gradient {per_call:8.2f} us',
        flush=True,
    )


def many_params(num, makers):
    print(f'\n{num} scalar Params of five families, each read by the likelihood:')
    built = {name: measure(make, num) for name, make in makers.items()}
    medians = interleaved({name: call for name, (_, _, call) in built.items()}, 20)
    for name, (traced, compiled, _) in built.items():
        report(name, traced, compiled, 1e6 * medians[name] / STEPS)
    return {name: (traced + compiled, medians[name]) for name, (traced, compiled, _) in built.items()}


def _alone(name, num):
    many_params(num, {name: MAKERS[name]})


MAKERS = {'this package': ours, 'hand-written': by_hand, 'NumPyro': in_numpyro}


def with_limit(name, num, seconds):
    process = multiprocessing.get_context('spawn').Process(target=_alone, args=(name, num))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        print(f'  {name:14} not ready after {seconds} s')


# An ordinary model: logistic regression with hierarchical weights


class Logistic(nn.Module):
    """Logistic regression whose weights share a fitted scale."""

    def __init__(self, num):
        super().__init__()
        self.w = nn.Param(
            jnp.zeros(num), reg=nn.GaussianReg(0.0, std=nn.Param(1.0, t=nn.SoftplusT(), reg=dist.Gamma(2.0, 2.0)))
        )
        self.b = nn.Param(0.0, reg=dist.Normal(0.0, 5.0))

    def __call__(self, x):
        return dist.Bernoulli(logits=x @ self.w.value() + self.b.value())


def logistic(rows=5000, columns=25):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(rows, columns)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 2, rows))
    posterior = infer.Posterior(Logistic(columns), x, y)

    def by_hand(log_likelihood):
        def density(theta, data):
            x, y = data
            b, t, w = theta[0], theta[1], theta[2:]
            std = jax.nn.softplus(t)
            prior = (
                jss.norm.logpdf(w, 0.0, std).sum()
                + jss.norm.logpdf(b, 0.0, 5.0)
                + jss.gamma.logpdf(std, 2.0, scale=0.5)
            )
            return log_likelihood(x @ w + b, y) + prior + jax.nn.log_sigmoid(t)

        return jax.jit(jax.value_and_grad(density))

    plain = by_hand(lambda z, y: (z * y - jnp.maximum(z, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(z)))).sum())
    same = by_hand(lambda z, y: dist.Bernoulli(logits=z).log_prob(y).sum())
    ours_ = jax.jit(jax.value_and_grad(posterior.density.log_density))
    theta = jnp.concatenate([jnp.zeros(1), jnp.full(1, 0.5413249), jnp.zeros(columns)])
    start = posterior.theta
    calls = {
        'this package': lambda: ours_(start, posterior.data),
        "by hand, the likelihood by the model's distribution": lambda: same(theta, (x, y)),
        'by hand throughout': lambda: plain(theta, (x, y)),
    }
    values = [float(call()[0]) for call in calls.values()]
    if not np.allclose(values, values[0], rtol=1e-5):
        raise SystemExit(f'the densities differ: {values}')
    medians = interleaved(calls, 400)
    print(f'logistic regression, {rows} x {columns}, value and gradient, one jitted call:')
    for name, seconds in medians.items():
        ratio = medians['this package'] / seconds
        print(f'  {name:52} {1e6 * seconds:8.1f} us   this package takes {ratio:.3f} of it (goal: at most 1.05)')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--long', action='store_true')
    options = parser.parse_args()
    logistic()
    got = many_params(100, MAKERS)
    print(
        f'  trace and compile against hand-written: {got["this package"][0] / got["hand-written"][0]:.2f} (goal: at '
        'most 0.5), '
        f'call: {got["this package"][1] / got["hand-written"][1]:.2f} (goal: at most 1)'
    )
    many_params(1000, {'this package': ours})
    if options.long:
        for other in ('hand-written', 'NumPyro'):
            with_limit(other, 1000, 100)
