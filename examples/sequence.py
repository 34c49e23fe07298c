"""A gated recurrent network that has to remember: was the marked bit equal to the next marked bit?

Each sequence has twelve random bits, two of which are marked; the answer is whether those two are equal. A network
without memory guesses (50 %). The network is trained by MAP; its readout then gets a Laplace approximation, and an
ensemble is trained beside it.

    python examples/sequence.py
"""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

from brainstate_prob import infer, nn, random, transform


class Recall(nn.Module):
    """A GRU over (batch, time, 2) inputs, read out after the last step."""

    def __init__(self, num_hidden: int = 16):
        super().__init__()
        self.cell = nn.GRUCell(2, num_hidden)
        self.readout = nn.Linear(num_hidden, 1)
        self.cell.init_state()

    def __call__(self, inputs):
        self.cell.reset_state(inputs.shape[0])
        hidden = transform.for_loop(self.cell, jnp.swapaxes(inputs, 0, 1))
        return dist.Bernoulli(logits=self.readout(hidden[-1])[:, 0])


def sequences(num: int, seed: int, length: int = 12):
    """Bits (-1 or 1) with marks, and whether the marked bits are equal."""
    rng = np.random.default_rng(seed)
    bits = rng.choice([-1.0, 1.0], (num, length))
    marked = np.argsort(rng.random((num, length)), axis=1)[:, :2]
    marks = np.zeros((num, length))
    np.put_along_axis(marks, marked, 1.0, axis=1)
    pair = np.take_along_axis(bits, marked, axis=1)
    return jnp.asarray(np.stack([bits, marks], -1), jnp.float32), jnp.asarray(pair[:, 0] == pair[:, 1], jnp.int32)


def build() -> nn.Module:
    return nn.with_prior(Recall(), {...: dist.Normal(0.0, 2.0)})


def main(num_steps: int = 1000, num_members: int = 3, progress: bool = True) -> dict[str, infer.Fit]:
    """Fit in three ways, print the table of scores, and return the fits."""
    random.seed(0)
    inputs, answers = sequences(2000, seed=0)
    model = build()
    posterior = infer.Posterior(model, inputs, answers)
    options = {
        'optimizer': optax.adam(optax.cosine_decay_schedule(1e-2, num_steps)),
        'num_steps': num_steps,
        'batch_size': 100,
        'progress': progress,
    }
    best = infer.map(posterior, **options)
    with warnings.catch_warnings():
        # A descent by minibatches ends near the mode, not at it.
        warnings.simplefilter('ignore', infer.ConvergenceWarning)
        laplace = infer.laplace(
            posterior, params='readout.weight', curvature='ggn', init=best, num_draws=50, progress=progress
        )
    fits = {
        'MAP': best,
        'last-layer Laplace': laplace,
        'ensemble': infer.ensemble(posterior, num_members=num_members, init=build, **options),
    }
    new_inputs, new_answers = sequences(1000, seed=1)
    print(f'{"":18s} accuracy  nll     brier   ece')
    for name, fit in fits.items():
        scores = fit.score(new_inputs, new_answers)
        print(f'{name:18s} ' + '  '.join(f'{scores["value", k]:6.4f}' for k in ('accuracy', 'nll', 'brier', 'ece')))
    return fits


if __name__ == '__main__':
    main()
