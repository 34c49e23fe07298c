"""Layers together: a convolutional network with norms and dropout learns to read digits."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from brainstate_prob import ParamState, environ, nn, random, transform


def reader_of_digits():
    return nn.Sequential(
        nn.Conv2d((8, 8, 1), 16, 3),
        functools.partial(nn.BatchNorm2d, momentum=0.9),
        nn.ReLU,
        functools.partial(nn.MaxPool2d, kernel_size=2),
        functools.partial(nn.Conv2d, out_channels=32, kernel_size=3),
        functools.partial(nn.BatchNorm2d, momentum=0.9),
        nn.ReLU,
        functools.partial(nn.MaxPool2d, kernel_size=2),
        nn.Flatten,
        nn.Dropout(0.8),
        functools.partial(nn.Linear, out_size=10),
    )


@pytest.mark.slow
def test_a_convolutional_network_reads_more_than_97_percent_of_the_digits():
    datasets = pytest.importorskip('sklearn.datasets')
    images, labels = datasets.load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1437], order[1437:]
    random.seed(0)
    net = reader_of_digits()
    params = net.states(ParamState)
    optimizer = optax.adam(3e-3)

    def loss(x, y):
        return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()

    @transform.jit
    def step(state, x, y):
        values = {path: p.value for path, p in params.items()}
        updates, state = optimizer.update(dict(transform.grad(loss, params)(x, y)), state, values)
        for path, value in optax.apply_updates(values, updates).items():
            params[path].value = value
        return state

    state = optimizer.init({path: p.value for path, p in params.items()})
    shuffle = np.random.default_rng(1)
    with environ.context(fit=True):
        for _ in range(12):
            for batch in shuffle.permutation(train)[: 22 * 64].reshape(22, 64):
                state = step(state, images[batch], labels[batch])
    with environ.context(fit=False):
        read = jnp.argmax(transform.jit(net)(images[test]), -1)
    # Three seeds gave 98.3, 98.9 and 99.4 %.
    assert np.mean(read == labels[test]) > 0.97
