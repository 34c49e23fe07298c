"""A place cell, fitted by MAP, SVI and NUTS from one model object: `make demo`.

A rat runs back and forth on a track of one metre; a cell in its hippocampus fires around one place, and more in one
direction. The model says so in physical units; every fit starts from the same parameters under the same log density.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import brainunit as u
import jax.numpy as jnp
import matplotlib
import numpy as np
import numpyro.distributions as dist

from brainstate_prob import infer, nn

HERE = pathlib.Path(__file__).resolve().parent
# The published Poisson regression on 1 ms bins: log rate = b0 + b1 x + b2 x^2 + b3 direction (data/README.md).
PUBLISHED = np.array([-28.870275, 0.688905, -0.005452, 3.275282])


class PlaceCell(nn.Module):
    """Rate = peak * exp(-z^2 / 2), z = (position - center) / width; exp(-preference) times that the other way."""

    def __init__(self):
        super().__init__()
        self.center = nn.Param(50.0 * u.cm, reg=dist.Normal(50.0, 25.0))
        self.width = nn.Param(10.0 * u.cm, t=nn.ExpT(0.0 * u.cm), reg=dist.LogNormal(2.0, 1.0))
        self.peak = nn.Param(10.0 * u.Hz, t=nn.SoftplusT(0.0 * u.Hz), reg=nn.GammaReg(alpha=1.2, beta=0.02 / u.Hz))
        self.preference = nn.Param(1.0, reg=dist.Normal(0.0, 5.0))

    def rate(self, position, forward):
        z = (position - self.center.value()) / self.width.value()
        return self.peak.value() * jnp.exp(-(z**2) / 2 - self.preference.value() * (1.0 - forward))

    def __call__(self, position, forward, duration):
        return dist.Poisson(u.get_magnitude(self.rate(position, forward) * duration))


def load(bin_ms: int = 10):
    """Position, direction and spike counts in bins of ``bin_ms``."""
    raw = np.load(HERE / 'data' / 'place_cell.npz')
    position, spikes = raw['position'].astype(np.float64), raw['spikes']
    forward = np.r_[np.diff(position) > 0, False]
    bins = len(position) // bin_ms

    def binned(x, how):
        return how(x[: bins * bin_ms].reshape(bins, bin_ms), axis=1)

    inputs = {
        'position': jnp.asarray(binned(position, np.mean)) * u.cm,
        'forward': jnp.asarray(binned(forward, np.mean) > 0.5, jnp.float32),
        'duration': bin_ms * u.ms,
    }
    return inputs, jnp.asarray(binned(spikes.astype(np.int32), np.sum))


def published() -> dict[str, float]:
    """The published coefficients as place, width, peak rate and preference."""
    b0, b1, b2, b3 = PUBLISHED
    return {
        'center': -b1 / (2 * b2),
        'width': np.sqrt(-1 / (2 * b2)),
        'preference': b3,
        'peak': 1000 * np.exp(b0 - b1**2 / (4 * b2) + b3),
    }


def table(fits: dict, reference: dict) -> str:
    """Every fit beside the published values."""
    tables = {name: fit.summary(prob=0.9).to_dict() for name, fit in fits.items()}
    units = {
        entry.name: str(entry.unit) if not entry.unit.is_unitless else '' for entry in fits['MAP'].posterior.entries
    }
    lines = [
        f'{"":16}{"published":>10}{"MAP":>10}   '
        f'{"SVI: mean (90 % interval)":28}{"NUTS: mean (90 % interval)":28}{"R-hat":>7}{"ESS":>7}'
    ]
    for name, value in reference.items():

        def interval(fit, name=name):
            row = tables[fit][name]
            return f'{row["mean"]:.2f} ({row["lower"]:.2f} to {row["upper"]:.2f})'

        nuts = tables['NUTS'][name]
        label = f'{name} {units[name] and "[" + units[name] + "]"}'
        lines.append(
            f'{label:16}{value:10.3f}{tables["MAP"][name]["estimate"]:10.3f}   {interval("SVI"):28}'
            f'{interval("NUTS"):28}{nuts["r_hat"]:7.3f}{nuts["ess_bulk"]:7.0f}'
        )
    return '\n'.join(lines)


def plot_field(fit, inputs, spikes, path: pathlib.Path) -> None:
    """The observed rate over position, both ways, and the fitted one with its 90 % band."""
    import matplotlib.pyplot as plt

    position, forward = np.asarray(inputs['position'] / u.cm), np.asarray(inputs['forward'])
    edges = np.linspace(0.0, 100.0, 41)
    grid = jnp.linspace(0.0, 100.0, 201) * u.cm
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, constrained_layout=True)
    for ax, way, title in zip(axes, (1.0, 0.0), ('running up the track', 'running back'), strict=True):
        seconds = np.histogram(position[forward == way], edges)[0] * float(inputs['duration'] / u.second)
        counts = np.histogram(position[forward == way], edges, weights=np.asarray(spikes)[forward == way])[0]
        ax.bar(
            edges[:-1], counts / np.maximum(seconds, 1e-9), np.diff(edges), align='edge', color='0.8', label='observed'
        )
        rates = fit.evaluate(PlaceCell.rate, grid, way)
        low, middle, high = np.quantile(rates.to_decimal(u.Hz), [0.05, 0.5, 0.95], axis=0)
        ax.fill_between(np.asarray(grid / u.cm), low, high, color='C0', alpha=0.35, label='90 % credible band')
        ax.plot(np.asarray(grid / u.cm), middle, color='C0', label='fitted rate')
        ax.set(title=title, xlabel='position (cm)', xlim=(0, 100))
    axes[0].set_ylabel('firing rate (Hz)')
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_trace(fit, path: pathlib.Path) -> None:
    """Every chain's density and trace of every parameter."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(fit.draws), 2, figsize=(10, 1.8 * len(fit.draws)), constrained_layout=True)
    for (left, right), (name, value) in zip(axes, fit.draws.items(), strict=True):
        magnitude, unit = np.asarray(u.get_magnitude(value)), u.get_unit(value)
        for chain in magnitude:
            left.hist(chain, bins=40, histtype='step', density=True)
            right.plot(chain, linewidth=0.4)
        left.set_ylabel(name if unit.is_unitless else f'{name} ({unit})')
        left.set_yticks([])
    axes[0, 0].set_title('density of each chain')
    axes[0, 1].set_title('trace')
    axes[-1, 1].set_xlabel('draw')
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(out: pathlib.Path, num_warmup: int = 1000, num_samples: int = 1000) -> dict:
    """Fit in three ways, print the table, save the pictures and the posterior."""
    matplotlib.use('Agg')
    out.mkdir(parents=True, exist_ok=True)
    inputs, spikes = load()
    model = PlaceCell()
    print(model.summary(), '\n')
    posterior = infer.Posterior(model, inputs, spikes)
    print(f'{posterior}: {int(spikes.sum())} spikes\n')
    fits, seconds = {}, {}
    for name, run in (
        ('MAP', lambda: infer.map(posterior)),
        ('SVI', lambda: infer.svi(posterior, guide='full', num_steps=5000)),
        ('NUTS', lambda: infer.nuts(posterior, num_warmup=num_warmup, num_samples=num_samples, num_chains=4, seed=0)),
    ):
        began = time.perf_counter()
        fits[name] = run()
        seconds[name] = time.perf_counter() - began
        if name == 'MAP':
            fits[name].assign_to(model)  # SVI and NUTS start from the mode
    print('\n' + table(fits, published()))
    print('\nseconds, compilation included: ' + ', '.join(f'{name} {s:.1f}' for name, s in seconds.items()))
    plot_field(fits['NUTS'], inputs, spikes, out / 'place_field.png')
    plot_trace(fits['NUTS'], out / 'trace.png')
    fits['NUTS'].save(out / 'posterior.nc')
    print('saved: ' + ', '.join(str(out / f) for f in ('place_field.png', 'trace.png', 'posterior.nc')))
    return fits


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out', type=pathlib.Path, default=HERE.parent / 'demo_output', help='folder for pictures and the posterior'
    )
    main(parser.parse_args().out)
