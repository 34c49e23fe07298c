"""The package as its users get it: a wheel in an environment that has nothing else."""

import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def python_blocks(path):
    return re.findall(r'^```python\n(.*?)^```', path.read_text(), flags=re.M | re.S)


def run(*command, cwd):
    env = {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    quiet = ('-m', 'pip', 'wheel', '--quiet', '--disable-pip-version-check', '--no-deps')
    run(sys.executable, *quiet, '--wheel-dir', str(folder), str(ROOT), cwd=folder)
    (found,) = folder.glob('brainstate_prob-*.whl')
    return found


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / 'brainstate_prob').rglob('*.py')}
    assert modules | {'brainstate_prob/py.typed'} == {name for name in names if '.dist-info/' not in name}


@pytest.mark.slow
def test_an_empty_environment_runs_the_example_of_the_readme(wheel, tmp_path):
    run(sys.executable, '-m', 'venv', str(tmp_path / 'env'), cwd=tmp_path)
    python = str(tmp_path / 'env' / 'bin' / 'python')
    version = '.'.join(map(str, sys.version_info[:2]))
    lock = ROOT / f'constraints-{version}.txt'
    install = (python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', str(wheel))
    run(*install, *(('--constraint', str(lock)) if lock.exists() else ()), cwd=tmp_path)
    example = '\n'.join(python_blocks(ROOT / 'README.md')).replace('1000, num_chains=4', '100, num_chains=2')
    check = "\nimport brainstate_prob\nassert 'site-packages' in brainstate_prob.__file__\n"
    printed = run(python, '-W', 'ignore', '-c', example + check, cwd=tmp_path)
    assert re.search(r'^center\s+6\d', printed, flags=re.M), printed
