"""Fits over eight devices of one process, and of two processes: the numbers of one device.

Each chain or member is computed by one device, so its numbers are the same bit for bit over one device, two or eight,
in one process or two. For sums over data on several devices they agree up to rounding: in double precision and over few
steps, before rounding grows.
"""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow  # several processes; two devices of one are in data/test_sharding.py

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / 'support' / 'device_fits.py'


def start(out, *args):
    env = {**os.environ, 'XLA_FLAGS': '', 'PYTHONPATH': str(SCRIPT.parents[2])}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    return subprocess.Popen([sys.executable, '-W', 'error', str(SCRIPT), str(out), *args], env=env, **pipes)


def finished(process, out):
    try:
        said, _ = process.communicate(timeout=240)
    finally:
        process.kill()
        process.stdout.close()
    assert process.returncode == 0, said
    with np.load(out) as file:
        return {name: file[name] for name in file}


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    """What one process with eight devices found."""
    out = tmp_path_factory.mktemp('one') / 'found.npz'
    return finished(start(out), out)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """What each of two processes with four devices found."""
    folder = tmp_path_factory.mktemp('two')
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = str(free.getsockname()[1])
    outs = [folder / f'{rank}.npz' for rank in (0, 1)]
    processes = [start(out, str(rank), port) for rank, out in enumerate(outs)]
    try:
        return [finished(*pair) for pair in zip(processes, outs, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()


DATA = ['log_density', 'pointwise', 'map', 'map, minibatches', 'nuts', 'log_likelihood of a fit']
DATA += ['predictions', 'predictions of new inputs']


def test_there_were_eight_devices_in_one_process_and_in_two(one, two):
    assert (one['devices'], one['processes']) == (8, 1)
    assert [(f['devices'], f['processes']) for f in two] == [(8, 2), (8, 2)]


@pytest.mark.parametrize('name', ['chains', 'members'])
def test_chains_and_members_over_devices(one, name):
    np.testing.assert_array_equal(one[name], one[f'{name} on 2'])  # bit for bit
    np.testing.assert_array_equal(one[name], one[f'{name} on one'])
    assert len(np.unique(one[name].reshape(-1, 3), axis=0)) > 5  # they are not all the same one
    assert (one['ran'], one['ran on 2']) == ('on 6 devices', 'on 2 devices')  # six chains


@pytest.mark.parametrize('name', ['chains', 'steps of the chains', 'members', 'losses of the members'])
def test_chains_and_members_over_processes_are_those_of_one_process_bit_for_bit(one, two, name):
    for found in two:  # each has them all
        np.testing.assert_array_equal(found[name], one[name])


@pytest.mark.parametrize('name', [*DATA, 'laplace'])
def test_data_over_devices_give_the_numbers_of_one_device_up_to_rounding(one, name):
    np.testing.assert_allclose(one[f'data: {name}'], one[f'one: {name}'], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('name', DATA)
def test_data_over_processes_give_the_numbers_of_one_device_up_to_rounding(one, two, name):
    np.testing.assert_array_equal(two[0][f'data: {name}'], two[1][f'data: {name}'])
    np.testing.assert_allclose(two[0][f'data: {name}'], one[f'one: {name}'], rtol=1e-9, atol=1e-11)


def test_each_device_holds_its_rows_and_sends_sums_alone(one, two):
    for found in (one, *two):
        assert found['rows on a device'].tolist() == [8, 2]  # 61 rows, filled up to 64
    program = str(one['program'])
    assert 'all-reduce' in program
    assert not any(word in program for word in ('all-gather', 'all-to-all', 'collective-permute'))


def test_a_second_fit_compiles_nothing(one, two):
    for found in (one, *two):
        assert (int(found['traced again']), found['compiled again'].tolist()) == (
            1,
            [],
        )  # the trace of the new posterior


def test_each_process_may_read_its_own_rows(two):
    for found in two:
        np.testing.assert_allclose(found['own rows'], found['own rows expected'], rtol=1e-12)


def test_what_several_processes_cannot_do(two):
    for found in two:
        assert 'is written by a run of one process, and this one is of 2' in str(found['checkpoint'])
        assert 'has none of the devices' in str(found['elsewhere'])
