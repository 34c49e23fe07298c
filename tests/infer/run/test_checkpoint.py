"""Checkpoints: exact, atomic, of one run only; runs that are killed at random moments end as uninterrupted ones."""

import json
import os
import pathlib
import subprocess
import sys
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

from brainstate_prob import infer, nn
from brainstate_prob.infer.run import checkpoint as checkpoints
from brainstate_prob.infer.run.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from brainstate_prob.infer.target.fingerprint import describe, differences_of, fingerprint_of
from tests.conftest import REPO
from tests.support.killed_runs import RUNS, check_killed
from tests.support.rich_model import compilations

pytestmark = pytest.mark.filterwarnings('ignore:k-hat')


class Loop(NamedTuple):
    """A state with everything that a driver's may have."""

    theta: jax.Array
    opt: dict
    batches: tuple | None
    key: jax.Array
    count: int
    rate: float
    done: bool


def a_loop(seed=0):
    rng = np.random.default_rng(seed)
    return Loop(
        jnp.asarray(rng.normal(size=5), jnp.float32),
        {
            'half': jnp.asarray(rng.normal(size=(2, 3)), jnp.bfloat16),
            'f16': jnp.asarray(rng.normal(size=()), jnp.float16),
            'double': rng.normal(size=4),
            'int': jnp.arange(3),
            'small': np.arange(-3, 3, dtype=np.int8),
            'bool': jnp.array([True, False]),
            'special': np.array([np.nan, -0.0, np.inf, np.finfo(float).tiny / 2]),
            'empty': np.zeros((0, 3), np.float32),
            'fortran': np.asfortranarray(rng.normal(size=(3, 2))),
        },
        (None, jax.random.PRNGKey(seed)),
        jax.random.split(jax.random.key(seed, impl='rbg'), 3),
        7,
        0.1,
        True,
    )


def bits(x):
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(x)), np.asarray(jax.random.key_data(x)).tobytes()
    if isinstance(x, bool | int | float):
        return type(x), repr(x)
    return type(x), str(x.dtype), x.shape, np.asarray(x).tobytes()


def saved_by(path, state, step=3, fingerprint=None, **held):
    with Checkpoint(path, 1, lambda: fingerprint or {'jax': 'any'}) as ckpt:
        ckpt.due(step)
        ckpt.save(state, **held)


def opened(path, fingerprint=None):
    return Checkpoint(path, None, lambda: fingerprint or {'jax': 'any'})


# The file


def test_every_bit_comes_back(tmp_path):
    state, losses = a_loop(), np.random.default_rng(1).normal(size=11).astype(np.float32)
    saved_by(tmp_path / 'c', state, arrays={'losses': losses}, extra={'stopped': '', 'n': [1, 2.5]})
    with opened(tmp_path / 'c') as ckpt:
        saved = ckpt.load(a_loop(1))
    assert saved.step == ckpt.step == 3
    assert jax.tree.structure(saved.state) == jax.tree.structure(state)
    assert [bits(x) for x in jax.tree.leaves(saved.state)] == [bits(x) for x in jax.tree.leaves(state)]
    assert bits(saved.arrays['losses']) == bits(losses)
    assert saved.extra == {'stopped': '', 'n': [1, 2.5]}


def test_arrays_go_back_to_their_devices(tmp_path):
    there = jax.devices()[-1]
    saved_by(tmp_path / 'c', jax.device_put(jnp.arange(3.0), there))
    with opened(tmp_path / 'c') as ckpt:
        state = ckpt.load(jax.device_put(jnp.zeros(3), there)).state
    assert state.devices() == {there}


def test_without_a_path_nothing_happens():
    with Checkpoint(None, None, lambda: pytest.fail('no fingerprint is needed')) as ckpt:
        assert ckpt.load(a_loop()) is None and not ckpt.exists
        assert not ckpt.due(5) and ckpt.step == 5
        ckpt.save(a_loop())
        ckpt.finish(a_loop())


def test_when_to_save(tmp_path, monkeypatch):
    with Checkpoint(tmp_path / 'c', 10, dict) as ckpt:
        assert [step for step in (5, 10, 15) if ckpt.due(step)] == [10, 15]  # 10 was not saved
        ckpt.save(())
        assert [step for step in (15, 19, 20, 40) if ckpt.due(step)] == [20, 40]
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, 'monotonic', lambda: now[0])
    with Checkpoint(tmp_path / 'd', None, dict) as ckpt:
        assert not ckpt.due(1)
        now[0] = 31.0
        assert ckpt.due(2)
        ckpt.save(())
        assert not ckpt.due(3)


def test_the_end_is_saved_once(tmp_path):
    with Checkpoint(tmp_path / 'c', 10, dict) as ckpt:
        ckpt.due(10)
        ckpt.save(1)
        ckpt.finish(2)
        assert ckpt.load(0).state == 1
        ckpt.due(13)
        ckpt.finish(3)
        assert ckpt.load(0).state == 3


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    saved_by(tmp_path / 'c', 1.5)
    before = (tmp_path / 'c').read_bytes()

    def full(*args, **kwargs):
        args[0].write(b'half of')
        raise OSError(28, 'No space left on device')

    for name, owner in (('savez', np), ('fsync', os), ('replace', os)):
        with monkeypatch.context() as patch, pytest.raises(OSError, match='No space left'):
            patch.setattr(
                owner, name, full if owner is np else lambda *a: (_ for _ in ()).throw(OSError(28, 'No space left'))
            )
            saved_by(tmp_path / 'c', 2.5)
        assert (tmp_path / 'c').read_bytes() == before
        assert os.listdir(tmp_path) == ['c']


def test_damaged_files_are_refused_and_never_read_wrongly(tmp_path):
    path = str(tmp_path / 'c')
    saved_by(path, a_loop(), arrays={'losses': np.arange(4.0)})
    whole = pathlib.Path(path).read_bytes()
    held = {name: bits(x) for name, x in read_checkpoint(path)[1].items()}
    rng = np.random.default_rng(0)

    def refused(data):
        pathlib.Path(path).write_bytes(data)
        try:
            found = {name: bits(x) for name, x in read_checkpoint(path)[1].items()}
        except ValueError as error:
            return 'is not a checkpoint, or is damaged' in str(error) and 'remove the file' in str(error)
        assert found == held  # a byte that says nothing, such as a date
        return False

    cuts = [refused(whole[:n]) for n in [0, 1, 100, *rng.integers(len(whole), size=20)]]
    assert all(cuts)
    flipped = []
    for at in rng.integers(len(whole), size=200):
        data = bytearray(whole)
        data[at] ^= 1 << rng.integers(8)
        flipped.append(refused(bytes(data)))
    assert sum(flipped) > 100
    assert refused(b'something else') and refused(os.urandom(1000))
    np.save(path, np.zeros(3))
    os.replace(f'{path}.npy', path)
    assert refused(pathlib.Path(path).read_bytes())


def test_no_code_is_ever_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ('a pickle was loaded',)

    with open(tmp_path / 'c', 'wb') as file:
        np.savez(file, x=np.array([Trap()], object))
    with opened(tmp_path / 'c') as ckpt, pytest.raises(ValueError, match='damaged'):
        ckpt.load(0)


def test_a_newer_format_is_refused(tmp_path):
    write_checkpoint(str(tmp_path / 'c'), {'format': 99, 'fingerprint': {}, 'step': 0, 'extra': {}}, {})
    with opened(tmp_path / 'c') as ckpt, pytest.raises(ValueError, match=r'format 99.*Update brainstate_prob'):
        ckpt.load(0)


@pytest.mark.parametrize(
    'like', [a_loop()._replace(done=1), a_loop()._replace(theta=jnp.zeros(4)), (1, 2), a_loop()._replace(rate=None)]
)
def test_a_state_of_another_structure_is_refused(tmp_path, like):
    saved_by(tmp_path / 'c', a_loop())
    with opened(tmp_path / 'c') as ckpt, pytest.raises(ValueError, match='another structure'):
        ckpt.load(like)


# Who may use it


def test_two_runs_cannot_have_one_file(tmp_path):
    with (
        opened(tmp_path / 'c'),
        pytest.raises(ValueError, match=rf'process {os.getpid()}\) writes the checkpoint .*/c'),
    ):
        opened(tmp_path / 'c').__enter__()
    with opened(tmp_path / 'c'):  # the first one is done
        pass
    assert os.listdir(tmp_path) == []


def test_nor_two_processes(tmp_path):
    code = (
        'import fcntl, os, sys; file = open(sys.argv[1], "w"); fcntl.flock(file, fcntl.LOCK_EX); '
        'print(os.getpid(), file=file, flush=True); print(os.getpid(), flush=True); sys.stdin.read()'
    )
    command = [sys.executable, '-c', code, str(tmp_path / 'c.lock')]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match=rf'Another run \(process {other.pid}\)'):
            opened(tmp_path / 'c').__enter__()
        other.kill()
        other.wait()
        with opened(tmp_path / 'c'):  # a killed one holds nothing
            pass


def test_what_a_killed_run_left_is_no_obstacle(tmp_path):
    (tmp_path / 'c.lock').write_text('12345')
    (tmp_path / '.c.tmp').write_bytes(b'half')
    saved_by(tmp_path / 'c', 1)
    assert os.listdir(tmp_path) == ['c']


BAD = [
    ({'every': 0}, ValueError, 'checkpoint_every must be an int of at least 1, got 0'),
    ({'every': True}, ValueError, 'every'),
    ({'every': 10, 'path': None}, ValueError, r'checkpoint_every=10 needs checkpoint=path'),
    ({'path': 'no/such/folder/c'}, FileNotFoundError, r'there is no folder .*no/such/folder'),
    ({'path': '.'}, ValueError, 'is a folder'),
]


@pytest.mark.parametrize(('options', 'error', 'message'), BAD, ids=range(len(BAD)))
def test_bad_options(tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        Checkpoint(**({'path': 'c', 'every': None, 'fingerprint': dict} | options)).__enter__()


# What a run is a run of


class Line(nn.Module):
    def __init__(self, prior=dist.Normal(0.0, 1.0), size=2, factor=1.0):  # noqa: B008
        super().__init__()
        self.w = nn.Param(jnp.zeros(size), reg=prior)
        self.noise = nn.Param(1.0, fit=False)
        self.factor = factor

    def __call__(self, x):
        return dist.Normal(self.factor * x @ self.w.value(), self.noise.value())


X = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
Y = X @ np.array([1.0, -1.0], np.float32)


def moved(w=0.0, noise=1.0):
    model = Line()
    model.w.set_value(jnp.full(2, w))
    model.noise.set_value(jnp.asarray(noise))
    return model


def fingerprint(model=None, x=X, y=Y, likelihood=None, method='svi', **options):
    posterior = infer.Posterior(Line() if model is None else model, x, y, likelihood=likelihood)
    return fingerprint_of(posterior.sampling_target(), method, **options)


OTHERS = {
    'prior': (lambda: fingerprint(Line(dist.Normal(0.0, 2.0))), r"Param 'w' is .*scale=1.* there and .*scale=2.* here"),
    'a constant in the model': (lambda: fingerprint(Line(factor=2.0)), 'log density'),
    'code': (lambda: fingerprint(likelihood=lambda m, x: dist.Normal(x @ m.w.value(), 2.0)), 'log density'),
    'inputs': (lambda: fingerprint(x=X + 1), r'inputs\[0\] is array \(20, 2\) float32 \[\w+\] there'),
    'targets': (lambda: fingerprint(y=np.append(Y[:-1], Y[-1] + 1e-6)), 'targets is'),
    'start': (lambda: fingerprint(moved(w=1.0)), 'parameters at the start'),
    'a State that is not fitted': (lambda: fingerprint(moved(noise=2.0)), "State 'noise"),
    'method': (lambda: fingerprint(method='map'), 'method is svi there and map here'),
    'an option': (lambda: fingerprint(num_particles=2), 'num_particles is absent there and 2 here'),
}


@pytest.mark.parametrize('name', OTHERS)
def test_differences_are_named(name):
    make, message = OTHERS[name]
    ours = fingerprint()
    assert differences_of(ours, fingerprint()) == []
    found = '; '.join(differences_of(ours, make()))
    assert found and pytest.importorskip('re').search(message, found), found


@pytest.mark.parametrize('module', ['jax', 'numpyro', 'brainstate_prob'])
def test_versions_are_part_of_it(monkeypatch, module):
    import brainstate_prob

    before = fingerprint()
    monkeypatch.setattr(
        {'jax': jax, 'numpyro': numpyro, 'brainstate_prob': brainstate_prob}[module], '__version__', '0.0'
    )
    (found,) = differences_of(before, fingerprint())
    assert found.startswith(f'{module} is {before[module]} there and 0.0 here')


def scaled(a):
    return lambda x: a * x


SAME = {
    'an optimizer written twice': lambda: optax.adam(1e-2),
    'a schedule': lambda: optax.sgd(optax.cosine_decay_schedule(1.0, 100)),
    'a closure': lambda: scaled(2.0),
    'a jitted function': lambda: jax.jit(scaled(2.0)),
    'a key': lambda: jax.random.key(3),
    'an array': lambda: jnp.arange(3.0),
    'a class': lambda: numpyro.infer.autoguide.AutoNormal,
    'a set': lambda: {'a', 'b', 'c'},
}
DIFFERENT = {
    'an optimizer': (optax.adam(1e-2), optax.adam(1e-3)),
    'a closure': (scaled(2.0), scaled(3.0)),
    'code': (lambda x: x + 1, lambda x: x + 2),
    'a key': (jax.random.key(3), jax.random.key(4)),
    'dtype': (np.zeros(2, np.float32), np.zeros(2, np.float64)),
    'shape': (np.zeros((2, 1)), np.zeros((1, 2))),
}


def test_descriptions_are_the_same_in_every_process():
    """Under another seed of Python's hashes, and at other addresses."""
    here = {name: describe(make()) for name, make in SAME.items()} | {'model': fingerprint()}
    code = (
        'import json; from tests.infer.run.test_checkpoint import SAME, describe, fingerprint; '
        "print(json.dumps({name: describe(make()) for name, make in SAME.items()} | {'model': fingerprint()}))"
    )
    env = {**os.environ, 'PYTHONHASHSEED': '12345'}
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=REPO, env=env, check=False)
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout.splitlines()[-1]) == json.loads(json.dumps(here))


@pytest.mark.parametrize('name', SAME)
def test_what_is_built_alike_is_described_alike(name):
    assert describe(SAME[name]()) == describe(SAME[name]())


@pytest.mark.parametrize('name', DIFFERENT)
def test_what_differs_is_described_differently(name):
    one, other = DIFFERENT[name]
    assert describe(one) != describe(other)


RATE, OPTIONS, RATES = 1e-2, types.SimpleNamespace(rate=1e-2), np.array([1e-2])


class Rates:
    rate = 1e-2

    def now(self):
        return self.rate


rates = Rates()
# How what an optimizer reads is changed, and the optimizer.
READ = {
    'a global': (lambda v: globals().update(RATE=v), lambda: optax.sgd(lambda step: RATE)),
    'an attribute': (lambda v: setattr(OPTIONS, 'rate', v), lambda: optax.sgd(lambda step: OPTIONS.rate)),
    'an array in place': (lambda v: RATES.__setitem__(0, v), lambda: optax.sgd(lambda step: RATES[0])),
    'a class attribute': (lambda v: setattr(Rates, 'rate', v), lambda: optax.sgd(lambda step: Rates.rate)),
    'a method of an object': (lambda v: setattr(rates, 'rate', v), lambda: optax.sgd(lambda step: rates.now())),
}


@pytest.mark.parametrize('name', READ)
def test_what_an_optimizer_reads_is_part_of_a_run(tmp_path, name):
    change, make = READ[name]

    def run(num_steps):
        options = {'optimizer': make(), 'num_steps': num_steps, 'checkpoint': tmp_path / 'a', 'checkpoint_every': 5}
        return infer.map(infer.Posterior(Line(), X, Y), progress=False, **options)

    try:
        change(1e-2)
        run(5)
        change(2e-2)
        with pytest.raises(ValueError, match='settings is Settings'):
            run(10)
        change(1e-2)
        assert run(10).info['num_steps'] == 10
    finally:
        change(1e-2)


# Runs


def same(a, b):
    np.testing.assert_array_equal(a.thetas, b.thetas)
    assert a.history.keys() == b.history.keys()
    for name in a.history:
        np.testing.assert_array_equal(a.history[name], b.history[name])


def svi(**settings):
    settings = {'num_steps': 300, 'num_draws': 100, 'optimizer': optax.adam(1e-2), 'progress': False} | settings
    return infer.svi(infer.Posterior(Line(), X, Y), **settings)


class Interrupted(Exception):
    pass


def interrupted(run, path, monkeypatch, saves, **options):
    """``run`` until it has saved so many times."""
    real, left = Checkpoint.save, [saves]

    def save(self, *args, **kwargs):
        real(self, *args, **kwargs)
        left[0] -= 1
        if not left[0]:
            raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Checkpoint, 'save', save)
        run(checkpoint=path, **options)


@pytest.mark.parametrize(
    'options', [{}, {'batch_size': 3}, {'guide': 'delta', 'init': 'prior'}, {'r_hat': 1.5}], ids=str
)
def test_svi_goes_on_where_it_was(tmp_path, monkeypatch, options):
    def run(**more):
        return svi(**options, num_steps=1000, **more)

    whole = run()
    interrupted(run, tmp_path / 'c', monkeypatch, 3, checkpoint_every=70)
    same(run(checkpoint=tmp_path / 'c', checkpoint_every=70), whole)
    with compilations() as compiled:
        same(run(checkpoint=tmp_path / 'c'), whole)  # it is done: nothing but the draws
    assert compiled == []


def test_batches_of_an_iterable_go_on_too(tmp_path, monkeypatch):
    batches = [(X[i : i + 5], Y[i : i + 5]) for i in range(0, 20, 5)]

    def run(**more):
        return svi(batches=batches, num_observations=20, num_steps=45, **more)

    whole = run()
    interrupted(run, tmp_path / 'c', monkeypatch, 2, checkpoint_every=10)
    same(run(checkpoint=tmp_path / 'c', checkpoint_every=10), whole)


def test_more_steps_and_fewer(tmp_path):
    svi(checkpoint=tmp_path / 'c', num_steps=200)
    same(svi(checkpoint=tmp_path / 'c', num_steps=350), svi(num_steps=350))
    with pytest.raises(ValueError, match='holds 350 steps, more than the 200 asked for'):
        svi(checkpoint=tmp_path / 'c', num_steps=200)
    svi(checkpoint=tmp_path / 'd', optimizer=None)
    with pytest.raises(
        ValueError, match=r'num_steps \(by which the default learning rate falls\) is 300 there and 400'
    ):
        svi(checkpoint=tmp_path / 'd', optimizer=None, num_steps=400)


def test_another_run_is_refused_by_name(tmp_path):
    svi(checkpoint=tmp_path / 'c')
    for options, message in (
        ({'seed': 1}, 'seed is key'),
        ({'guide': 'full'}, 'guide is diagonal there and full here'),
        ({'optimizer': optax.adam(1e-3)}, 'optimizer is'),
        ({'num_particles': 2, 'batch_size': 5}, 'num_particles is 1 there and 2 here; batch_size is None there and 5'),
    ):
        with pytest.raises(ValueError, match=f'another run: {message}'):
            svi(checkpoint=tmp_path / 'c', **options)


@pytest.mark.filterwarnings('ignore:The parameters of the model are float32')
def test_precision_is_part_of_a_run(tmp_path, x64):
    def run(dtype):
        model = Line()
        model.w = nn.Param(jnp.zeros(2, dtype), reg=dist.Normal(0.0, 1.0))
        posterior = infer.Posterior(model, X.astype(dtype), Y.astype(dtype))
        return infer.svi(posterior, num_steps=5, num_draws=1, progress=False, checkpoint=tmp_path / 'c')

    assert run(np.float64).thetas.dtype == np.float64
    with pytest.raises(ValueError, match=r"Param 'w' is \(2,\) float64 .*float32"):
        run(np.float32)


# Kills


@pytest.mark.skipif(not hasattr(os, 'fork') or not os.path.isdir('/proc/self/task'), reason='lives are forks')
@pytest.mark.parametrize(
    ('methods', 'kills'),
    [
        pytest.param(['map'], 3, id='map'),
        *(pytest.param([name], 10, id=f'{name}, often', marks=pytest.mark.slow) for name in ('map', 'svi', 'nuts')),
        pytest.param(sorted(set(RUNS) - {'map', 'svi', 'nuts'}), 3, id='the others', marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path, methods, kills):
    check_killed(tmp_path, methods, kills)
