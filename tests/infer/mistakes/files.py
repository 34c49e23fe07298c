"""Mistakes with files of fits: where they are written, and what they are read with."""

import functools
import os
import tempfile

import numpy as np
import numpyro.distributions as dist

from brainstate_prob import infer, nn
from tests.infer.mistakes.row import Mistake

Y = np.float32(1 + np.random.default_rng(0).normal(size=12))
SEVERAL = ('map', 'laplace', 'nuts', 'smc')
ONE = ('laplace',)


class Mean(nn.Module):
    def __init__(self, prior=1.0, noise=1.0, constant=0.0):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, prior))
        self.shift = nn.Const(constant)
        self.noise = noise

    def __call__(self):
        return dist.Normal(self.mu.value() + self.shift.value(), self.noise)


@functools.cache
def mean():
    return infer.Posterior(Mean(), targets=Y)


def read_with(*args, y=Y, use=lambda fit: fit):
    """Save a fit, and load it with another posterior."""

    def then(fit):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'fit.nc')
            fit.save(path)
            return use(infer.load(path, infer.Posterior(Mean(*args), targets=y)))

    return then


def saved_as(*name):
    def then(fit):
        with tempfile.TemporaryDirectory() as folder:
            os.mkdir(os.path.join(folder, 'full'))
            os.mkdir(os.path.join(folder, 'full', 'more'))
            fit.save(os.path.join(folder, *name))

    return then


def file(name, then, *words, ways=ONE, error=ValueError):
    return Mistake(name, mean, words, error, ways, then=then)


ANOTHER = "holds the fit of another model than the posterior's"
FITTED = ('about the data that were fitted', 'posterior of the data that were fitted, or fit these')

ROWS = [
    file('a fit read with another prior', read_with(5.0), ANOTHER, "the prior of 'mu' is .*scale=5", ways=SEVERAL),
    file('a fit read with another likelihood', read_with(1.0, 3.0), ANOTHER, 'the likelihood', ways=SEVERAL),
    file('a fit read with another constant', read_with(1.0, 1.0, 2.0), ANOTHER, "'shift.val' is", ways=SEVERAL),
    file('a fit of other data read with another prior', read_with(5.0, y=Y[:4]), ANOTHER, "the prior of 'mu'"),
    file(
        'the evidence of data that were not fitted',
        read_with(y=Y + 1, use=lambda fit: fit.log_marginal_likelihood),
        'log_marginal_likelihood is ',
        *FITTED,
    ),
    file('data left out that were not fitted', read_with(y=Y[:5], use=lambda fit: fit.loo()), 'loo is ', *FITTED),
    file(
        'models compared on data that were not fitted',
        read_with(y=Y + 1, use=lambda fit: infer.compare({'a': fit, 'b': fit})),
        'compare is ',
        *FITTED,
    ),
    file(
        'LOO-PIT of data that were not fitted',
        read_with(y=Y + 1, use=lambda fit: fit.plot_loo_pit()),
        'plot_loo_pit is ',
        *FITTED,
    ),
    file('a fit saved as a pickle', saved_as('fit.pkl'), r"fit\.pkl' would be a netCDF file", r'\.zarr'),
    file('a fit saved as HDF5', saved_as('fit.h5'), r"fit\.h5' would be a netCDF file", r'ends in \.nc'),
    file('a fit saved in no folder', saved_as('no', 'f.nc'), "there is no folder '.*no'", error=FileNotFoundError),
    file('a fit saved over a folder', saved_as('full'), "full' is a folder", 'fit.nc'),
]
