"""Handwritten digits: a perceptron and a convolutional network, their posteriors, and how far to trust them.

Each network is trained by MAP. Around that point its last layer gets a Laplace approximation; an ensemble is trained
beside it; the table shows accuracy, log score and calibration on digits that nobody trained on.

    pip install scikit-learn    # brings the 1797 digits
    python examples/digits.py
"""

from __future__ import annotations

import warnings
from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax

from brainstate_prob import infer, nn, random

bias = nn.init.ZeroInit()


def perceptron() -> nn.Module:
    """64 pixels -> 128 ReLU units -> 10 logits."""
    return nn.Sequential(nn.Flatten(in_size=(8, 8, 1)), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def convolutional() -> nn.Module:
    """Two convolutions of 3 x 3, each followed by pooling, and 10 logits."""
    return nn.Sequential(
        nn.Conv2d((8, 8, 1), 8, 3, b_init=bias),
        nn.ReLU(),
        partial(nn.MaxPool2d, kernel_size=2),
        partial(nn.Conv2d, out_channels=16, kernel_size=3, b_init=bias),
        nn.ReLU(),
        partial(nn.MaxPool2d, kernel_size=2),
        nn.Flatten,
        partial(nn.Linear, out_size=10),
    )


NETWORKS = {'perceptron': perceptron, 'convolutional': convolutional}


def load():
    """Training and test digits: images (n, 8, 8, 1) with pixels in [0, 1], and labels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    return train_test_split(images, digits.target.astype(np.int32), test_size=450, random_state=0)


def class_probabilities(model, images):
    return dist.Categorical(logits=model(images))


def fit(name: str, images, labels, num_steps: int = 600, num_members: int = 5, progress: bool = True) -> dict:
    """MAP, the last layer's Laplace approximation and an ensemble of one network."""
    random.seed(0)

    def build() -> nn.Module:
        return nn.with_prior(NETWORKS[name](), {...: dist.Normal(0.0, 0.7)})

    network = build()
    posterior = infer.Posterior(network, images, labels, likelihood=class_probabilities)
    options = {
        'optimizer': optax.adam(optax.cosine_decay_schedule(3e-3, num_steps)),
        'num_steps': num_steps,
        'batch_size': 100,
        'progress': progress,
    }
    best = infer.map(posterior, **options)
    last = network.layers[-1]
    # On a CPU, XLA runs one convolution with many kernels (members in one program) far slower than one after another.
    method = 'sequential' if name == 'convolutional' else None
    with warnings.catch_warnings():
        # A descent by minibatches ends near the mode, not at it; Gauss-Newton curvature is positive all the same.
        warnings.simplefilter('ignore', infer.ConvergenceWarning)
        laplace = infer.laplace(
            posterior, params=last, curvature='ggn', structure='kronecker', init=best, num_draws=50, progress=progress
        )
    return {
        'MAP': best,
        'last-layer Laplace': laplace,
        'ensemble': infer.ensemble(posterior, num_members=num_members, init=build, chain_method=method, **options),
    }


def main(names=tuple(NETWORKS), progress: bool = True, **options) -> dict[str, dict[str, infer.Fit]]:
    """Fit, print the table of scores, and return the fits."""
    train, test, train_labels, test_labels = load()
    fits = {name: fit(name, train, train_labels, progress=progress, **options) for name in names}
    print(f'{"":33s} accuracy  nll     brier   ece')
    for name, ways in fits.items():
        for way, result in ways.items():
            scores = result.score(jnp.asarray(test), test_labels)
            numbers = (f'{scores["value", k]:6.4f}' for k in ('accuracy', 'nll', 'brier', 'ece'))
            print(f'{name:14s} {way:18s} {"  ".join(numbers)}')
    return fits


if __name__ == '__main__':
    main()
