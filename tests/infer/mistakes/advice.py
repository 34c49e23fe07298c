"""Mistakes in how hierarchical parameters are moved, in thinning and in a sampler's own options; what a run is told."""

import jax.numpy as jnp
import numpyro.distributions as dist

from brainstate_prob import infer, nn
from tests.infer.mistakes.row import Mistake


class Groups(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Param(0.0, reg=dist.Normal(0.0, 1.0))
        self.tau = nn.Param(1.0, t=nn.ExpT(0.0), reg=dist.HalfNormal(1.0))
        self.effect = nn.Param(jnp.zeros(4), reg=nn.GaussianReg(self.mu, self.tau))

    def __call__(self):
        return dist.Normal(self.effect.value(), 20.0)


class Mean(nn.Module):
    def __init__(self, size=2):
        super().__init__()
        self.w = nn.Param(jnp.zeros(size), reg=dist.Normal(0.0, 1.0))

    def __call__(self):
        return dist.Normal(self.w.value().sum() * jnp.ones(8), 1.0)


def groups():
    return infer.Posterior(Groups(), targets=jnp.array([-10.0, 0.0, 10.0, 30.0]))


def mean(size=2):
    return infer.Posterior(Mean(size), targets=jnp.ones(8))


FORMS = ('nuts', 'barker', 'chees', 'meads', 'smc', 'pathfinder', 'svi', 'laplace')
THINS = ('nuts', 'barker', 'sgmcmc', 'chees', 'meads', 'elliptical_slice')
CYCLES = {'method': 'cyclical', 'num_warmup': 4, 'num_cycles': 2}


def told(name, options, *words):
    """A row of `nuts` that goes on and warns."""
    settings = {'num_warmup': 100, 'num_samples': 200, 'num_chains': 2, 'seed': 1}
    return Mistake(name, groups, words, infer.ConvergenceWarning, ('nuts',), settings | options, warns=True)


ROWS = [
    Mistake(
        'a parameter without a fitted scale is to be non-centred',
        groups,
        ("noncentered names 'mu', which cannot be non-centred", r"There are \['effect'\]"),
        ways=FORMS,
        options={'noncentered': 'mu'},
    ),
    Mistake(
        'a path that is not there is to be non-centred',
        groups,
        ("noncentered names 'efect'", r"There are \['effect'\]"),
        ways=FORMS,
        options={'noncentered': ['effect', 'efect']},
    ),
    Mistake(
        'a number that the parameter does not have is to be non-centred',
        groups,
        ("noncentered names number 4 of 'effect', which has 4",),
        ways=FORMS,
        options={'noncentered': 'effect[0, 4]'},
    ),
    Mistake(
        'a number in place of a choice of form',
        groups,
        ("noncentered must be 'auto', True, False, a dotted path", 'got 3'),
        ways=FORMS,
        options={'noncentered': 3},
    ),
    Mistake(
        'noncentered where no parameter is hierarchical',
        mean,
        ("noncentered names 'w', which cannot be non-centred", r'There are \[\]'),
        ways=FORMS,
        options={'noncentered': 'w'},
    ),
    Mistake(
        'thinning beyond the number of steps',
        mean,
        ('thinning=5 keeps none of num_samples=4 draws', 'Lower it'),
        ways=THINS,
        options={'num_samples': 4, 'thinning': 5},
    ),
    Mistake('thinning by nothing', mean, ('thinning must be', 'at least 1'), ways=THINS, options={'thinning': 0}),
    Mistake(
        'cycles that thinning does not divide',
        mean,
        (r'num_samples=6 must be a multiple of num_cycles=2 \* thinning=2',),
        ways=('sgmcmc',),
        options=CYCLES | {'num_samples': 6, 'thinning': 2},
    ),
    Mistake(
        'a warm-up that cycles do not divide',
        mean,
        ('num_warmup=5 one of num_cycles',),
        ways=('sgmcmc',),
        options=CYCLES | {'num_warmup': 5, 'num_samples': 4},
    ),
    Mistake(
        'an acceptance rate in per cent',
        mean,
        ('target_accept must be a number between 0 and 1, got 80',),
        ways=('nuts', 'chees'),
        options={'target_accept': 80},
    ),
    Mistake(
        'a dense mass matrix by gradients',
        mean,
        ("warmup='gradient' adapts no dense mass matrix", "Use mass_matrix='low_rank', or warmup='stan'"),
        ways=('nuts',),
        options={'mass_matrix': 'full', 'warmup': 'gradient'},
    ),
    Mistake(
        'a low-rank mass matrix by windows of draws',
        mean,
        ("mass_matrix='low_rank' is adapted by gradients only", "use warmup='gradient'"),
        ways=('nuts',),
        options={'mass_matrix': 'low_rank', 'warmup': 'stan'},
    ),
    Mistake(
        'a mass matrix by a wrong name',
        mean,
        (r"mass_matrix must be one of \['diagonal'", "got 'dense'"),
        ways=('nuts',),
        options={'mass_matrix': 'dense'},
    ),
    Mistake(
        'a mass matrix that subsampling does not have',
        mean,
        (r"mass_matrix must be one of \['diagonal', 'full'\], got 'low_rank'",),
        ways=('hmc_ecs',),
        options={'batch_size': 4, 'mass_matrix': 'low_rank'},
    ),
    Mistake(
        'chains in folds that are not full',
        mean,
        ('num_chains of MEADS', 'a multiple of 4 and at least 8, got 6'),
        ways=('meads',),
        options={'num_chains': 6},
    ),
    Mistake(
        'one chain where chains tune each other',
        mean,
        ('adapts over chains', 'num_chains at least 2', 'num_chains=1'),
        ways=('chees',),
        options={'num_chains': 1},
    ),
    Mistake(
        'a warm-up too short for autocorrelations',
        mean,
        ('num_warmup of MCLMC', 'at least 100: 20'),
        ways=('mclmc',),
        options={'num_warmup': 20},
    ),
    Mistake(
        'a direction on a sphere of one dimension',
        lambda: mean(1),
        ('takes at least two numbers; this posterior has one', 'infer.nuts'),
        ways=('mclmc',),
        options={'num_warmup': 100},
    ),
    Mistake(
        'no energy error at all',
        mean,
        ('energy_variance must be a positive number, got 0',),
        ways=('mclmc',),
        options={'energy_variance': 0.0},
    ),
    Mistake(
        'elliptical slices of a prior that is fitted',
        groups,
        ("'effect'|'tau'",),
        ways=('elliptical_slice',),
    ),
    Mistake(
        'a preconditioner without a warm-up to learn it',
        mean,
        ('precondition=True is learned in the warm-up', 'num_warmup of at least 1'),
        ways=('sgmcmc',),
        options={'precondition': True, 'num_warmup': 0},
    ),
    Mistake(
        'a step that leads to infinity',
        mean,
        (r'became non-finite within step \d+', r'Use a smaller step_size \(now 1000\)', 'use precondition=True'),
        ways=('sgmcmc',),
        options={'step_size': 1e3, 'num_warmup': 200, 'num_samples': 200},
    ),
    Mistake(
        'a subsample of everything',
        mean,
        ('batch_size must be at least 2 and less than the 8 observations, got 8',),
        ways=('hmc_ecs',),
        options={'batch_size': 8},
    ),
    told(
        'weak data in centred form',
        {'noncentered': False},
        'diverged',
        r"Move 'effect' non-centred \(noncentered=True\), which was centred",
        r'raise target_accept \(now 0.8\) towards 0.99',
    ),
    told(
        'weak data in centred form, with all that the sampler can do',
        {'noncentered': False, 'target_accept': 0.99, 'mass_matrix': 'full', 'num_samples': 100, 'num_warmup': 20},
        r"(?s)\A(?!.*raise target_accept)(?!.*mass_matrix='full').*noncentered=True",
    ),
]
