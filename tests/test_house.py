"""The rules of the house that a machine can check: public JAX only, imports that point down, small files."""

import ast
import functools
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'brainstate_prob'
MODULES = sorted(PACKAGE.rglob('*.py'))
MAX_LINES = 500

# An import goes to the same floor or to one below. A new room is entered here.
FLOORS = {
    'core': 0,
    'environ': 1,
    'random': 1,
    'graph': 1,
    'transform': 2,
    'nn': 3,
    'infer': 4,
    'interop': 5,
}
# The rooms of infer/, from the ground up; what stands in infer/ itself, beside __init__, knows none of them.
INFER = (
    'data',
    'density',
    'target',
    'diagnostics',
    'results',
    'run',
    'descent',
    'laplace',
    'mcmc',
    'variational',
    'evaluate',
)
ROOMS = [room for room in FLOORS if (PACKAGE / room).exists() or (PACKAGE / f'{room}.py').exists()]
# Heavy, and not needed by everyone: imported inside the function that uses them.
ON_FIRST_USE = {'tensorflow_probability', 'arviz', 'arviz_base', 'arviz_stats', 'arviz_plots', 'matplotlib', 'xarray'}
# Libraries whose models are taken: optional.
INTEROP = {'flax', 'equinox', 'brainstate'}
PRIVATE_JAX = re.compile(r'jax\.(_src|interpreters|extend|core\.(?!Tracer\b)\w+)\b')


def module_id(path):
    return str(path.relative_to(ROOT))


def imported(tree, package):
    """(node, absolute dotted name) of every import in the module, one a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            base = '.'.join([*parts, *([node.module] if node.module else [])])
            names = [f'{base}.{alias.name}' for alias in node.names]
        else:
            continue
        for name in names:
            yield node, name


def inside_functions(tree):
    """The ids of the nodes inside a function."""
    functions = (f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef))
    return {id(node) for f in functions for node in ast.walk(f)}


def for_type_checkers(tree):
    """The ids of the nodes under ``if TYPE_CHECKING``."""
    branches = (n for n in ast.walk(tree) if isinstance(n, ast.If) and 'TYPE_CHECKING' in ast.dump(n.test))
    return {id(node) for branch in branches for statement in branch.body for node in ast.walk(statement)}


def imports(tree, package):
    """(line, absolute dotted name, inside a function?) of every import in the module, one a name."""
    inner = inside_functions(tree)
    return ((node.lineno, name, id(node) in inner) for node, name in imported(tree, package))


def dotted(node):
    """`a.b.c` of an attribute chain, or None."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f'{base}.{node.attr}' if base else None
    return node.id if isinstance(node, ast.Name) else None


def findings(text, path):
    """What a module does against the rules, one line each."""
    package = list(path.relative_to(ROOT).parent.parts)
    room = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    tree = ast.parse(text)
    found = []
    if text.count('\n') > MAX_LINES:
        found.append(f'{text.count(chr(10))} lines: two concepts in one file?')
    if tree.body and not ast.get_docstring(tree):
        found.append('no module docstring that says what the room is for')
    for n, line in enumerate(text.splitlines(), 1):
        if re.search(r'\b(TODO|FIXME|XXX)\b', line):
            found.append(f'line {n}: an open end: {line.strip()}')
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and PRIVATE_JAX.search(dotted(node) or ''):
            found.append(f'line {node.lineno}: private JAX: {dotted(node)}')
        if isinstance(node, ast.ImportFrom) and node.level > 2:
            found.append(f'line {node.lineno}: a three-dot import: import from brainstate_prob.<room>')
    for line, name, inside in imports(tree, package):
        if PRIVATE_JAX.search(name) or name == 'jax.core':
            found.append(f'line {line}: private JAX: {name}')
        if not inside and name.split('.')[0] in ON_FIRST_USE | INTEROP:
            found.append(f'line {line}: {name} is imported on first use only')
        if name.startswith('brainstate_prob.') and room != '__init__':
            target = name.split('.')[1]
            if target in FLOORS and FLOORS[target] > FLOORS.get(room, -1):
                found.append(f'line {line}: {room} may not import {target}, which stands above it')
    if room != '__init__' and room not in FLOORS:
        found.append(f'a room without a floor: enter {room!r} in FLOORS of {pathlib.Path(__file__).name}')
    return found


@pytest.mark.parametrize('path', MODULES, ids=module_id)
def test_module_keeps_the_rules(path):
    assert findings(path.read_text(), path) == []


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('import jax._src.core', 'private JAX'),
        ('from jax import core', 'private JAX'),
        ('from jax.interpreters import ad', 'private JAX'),
        ('x = jax.core.get_aval(1)', 'private JAX'),
        ('from brainstate_prob.nn import Param', 'stands above'),
        ('from ..infer import Posterior', 'stands above'),
        ('def f():\n    from brainstate_prob import nn', 'stands above'),
        ('import arviz as az', 'first use'),
        ('# TO' + 'DO: later', 'open end'),
        ('from ...core import State', 'three-dot'),
        ('\n' * MAX_LINES, 'two concepts'),
    ],
)
def test_the_check_finds(line, message):
    found = findings(f'"""Why."""\nimport jax\n{line}\n', PACKAGE / 'transform' / 'x.py')
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    'line',
    [
        'isinstance(1, jax.core.Tracer)',
        'from jax.core import Tracer',
        'from brainstate_prob.core import State',
        'from ..core import State',
        'def f():\n    import arviz as az',
    ],
)
def test_the_check_lets_pass(line):
    assert findings(f'"""Why."""\nimport jax\n{line}\n', PACKAGE / 'transform' / 'x.py') == []


def test_the_check_wants_a_docstring_and_a_floor():
    assert 'no module docstring' in findings('import jax\n', PACKAGE / 'core' / 'x.py')[0]
    assert 'without a floor' in findings('"""Why."""\n', PACKAGE / 'cellar' / 'x.py')[0]


def arrows(sources):
    """{(module, own module that it imports): kind of import}: 'top', 'function' or 'types' (under TYPE_CHECKING).

    ``sources`` are the texts of the package's files by path.
    """
    modules = {
        '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path for path in sources
    }
    found = {}
    for module, path in modules.items():
        tree = ast.parse(sources[path])
        inner, typing = inside_functions(tree), for_type_checkers(tree)
        for node, name in imported(tree, list(path.relative_to(ROOT).parent.parts)):
            while name and name not in modules:  # a name in a module: the module
                name = name.rpartition('.')[0]
            if name and name != module:
                kind = 'types' if id(node) in typing else 'function' if id(node) in inner else 'top'
                found.setdefault((module, name), set()).add(kind)
    return found


def circles(edges):
    """The sets of nodes that reach each other along the edges."""
    after = {}
    for start, end in edges:
        after.setdefault(start, set()).add(end)

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            new = after.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    reach = {node: reached(node) for node in after}
    around = {node: frozenset(n for n in reach[node] if node in reach.get(n, ())) for node in after}
    return sorted(sorted(circle) for circle in set(around.values()) if circle)


def room_of(module):
    return [*module.split('.'), '__init__'][1]


@functools.cache
def package_arrows():
    return arrows({path: path.read_text() for path in MODULES})


@pytest.mark.parametrize('room', ROOMS)
def test_no_circle_of_modules(room):
    """Types alone may refer to each other: those imports are never run."""
    edges = [pair for pair, kinds in package_arrows().items() if kinds - {'types'}]
    assert [circle for circle in circles(edges) if any(room_of(module) == room for module in circle)] == []


@pytest.mark.parametrize('room', ROOMS)
def test_own_modules_are_imported_at_the_top(room):
    inside = [pair for pair, kinds in package_arrows().items() if 'function' in kinds and room_of(pair[0]) == room]
    assert inside == []


def floor_of(module):
    """Of a module of infer/: 0 for what knows no room, above all of them for infer/__init__."""
    parts = module.split('.')[2:]
    if not parts:
        return len(INFER) + 1
    return INFER.index(parts[0]) + 1 if parts[0] in INFER else 0


def upward(edges):
    within = [
        (a, b) for a, b in edges if a.startswith('brainstate_prob.infer') and b.startswith('brainstate_prob.infer')
    ]
    return [(a, b) for a, b in within if floor_of(b) > floor_of(a)]


def test_imports_point_down_between_the_rooms_of_infer():
    assert {path.name for path in (PACKAGE / 'infer').iterdir() if (path / '__init__.py').exists()} == set(INFER)
    assert upward([pair for pair, kinds in package_arrows().items() if kinds - {'types'}]) == []


def test_the_check_of_rooms_finds():
    infer = 'brainstate_prob.infer'
    up = [
        (f'{infer}.rules', f'{infer}.data.arrays'),
        (f'{infer}.run.chains', f'{infer}.mcmc.nuts'),
        (f'{infer}.run', infer),
    ]
    down = [
        (f'{infer}.mcmc.nuts', f'{infer}.run.chains'),
        (infer, f'{infer}.run'),
        (f'{infer}.mcmc.nuts', f'{infer}.rules'),
    ]
    assert upward([*up, *down]) == up


def test_the_check_of_circles_finds():
    at = {name: PACKAGE / 'core' / f'{name}.py' for name in ('a', 'b', 'c', 'd')}
    module = {name: f'brainstate_prob.core.{name}' for name in at}
    texts = {
        'a': 'from brainstate_prob.core.b import f',
        'b': 'from .c import g\ndef f():\n    import numpy',
        'c': 'def g():\n    from brainstate_prob.core import a',
        'd': 'if TYPE_CHECKING:\n    from brainstate_prob.core.a import f\nelse:\n    import brainstate_prob.core.b',
    }
    found = arrows({at[name]: text for name, text in texts.items()})
    assert found == {
        (module['a'], module['b']): {'top'},
        (module['b'], module['c']): {'top'},
        (module['c'], module['a']): {'function'},
        (module['d'], module['a']): {'types'},
        (module['d'], module['b']): {'top'},
    }
    assert circles(found) == [[module['a'], module['b'], module['c']]]
    assert circles([('x', 'y'), ('y', 'z'), ('x', 'z')]) == []
    assert circles([('x', 'x')]) == [['x']]


def undocumented(name, thing):
    """The exported thing, or what it makes public, where no documentation is written or inherited."""
    if isinstance(thing, types.ModuleType | types.GenericAlias | types.UnionType):
        return
    if not (inspect.getdoc(thing) or '').strip():
        yield name
    for key, value in vars(thing).items() if inspect.isclass(thing) else ():
        documents = inspect.isroutine(value) or isinstance(value, property | functools.cached_property)
        if documents and not key.startswith('_') and not inspect.getdoc(getattr(thing, key)):
            yield f'{name}.{key}'


@pytest.mark.parametrize('room', ROOMS)
def test_exports_exist_and_are_documented(room):
    module = importlib.import_module(f'brainstate_prob.{room}')
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert missing == []
    assert [bad for name in module.__all__ for bad in undocumented(name, getattr(module, name))] == []


def test_the_check_of_documentation_finds():
    class Undocumented:
        def method(self):
            pass

    class Documented(Undocumented):
        """What it is."""

        def method(self):
            pass

    assert list(undocumented('A', Undocumented)) == ['A', 'A.method']
    assert list(undocumented('B', Documented)) == ['B.method']


def test_import_is_light_and_touches_no_global_setting():
    """A fresh process: what is imported later stays out, and every JAX setting stands as before."""
    script = f"""
import sys, os, warnings
import jax, numpyro, brainunit
settings, environment = dict(jax.config.values), dict(os.environ)
filters, loaded = list(warnings.filters), set(sys.modules)
import brainstate_prob
for room in {ROOMS!r}:
    __import__('brainstate_prob.' + room)
heavy = sorted({ON_FIRST_USE | INTEROP!r} & (set(sys.modules) - loaded))
assert not heavy, f'imported too early: {{heavy}}'
assert dict(jax.config.values) == settings, 'a JAX setting was changed'
assert dict(os.environ) == environment, 'the environment was changed'
assert warnings.filters == filters, 'the warning filters were changed'
"""
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
