"""Mistakes in a model in the user's words: what is given in place of one, and what JAX says while it is called."""

from __future__ import annotations

import contextlib
import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpyro.distributions as dist

from brainstate_prob.nn.module import Module
from brainstate_prob.nn.param import Param

__all__ = [
    'check_call',
    'misfit',
    'plain_words',
    'refuse_no_function',
    'what_is_no_distribution',
    'what_is_no_model',
    'what_is_no_posterior',
]

_WRITE = 'Write the model as a subclass of nn.Module whose __call__ returns a NumPyro distribution of the targets.'
_LIBRARIES = {
    'flax': 'Flax',
    'equinox': 'Equinox',
    'haiku': 'Haiku',
    'brainstate': 'brainstate',
    'torch': 'PyTorch',
    'keras': 'Keras',
    'sklearn': 'scikit-learn',
}


# What is given in place of a model, a posterior or a distribution


def what_is_no_model(given: Any, taker: str = 'A Posterior') -> str:
    """The error for what is given in place of a Module, with what to write."""
    head = f'{taker} takes a Module, got {type(given).__name__}'
    if isinstance(given, type):
        if issubclass(given, Module):
            return f'{head}: {given.__name__} is the class. Call it for a model, {given.__name__}(...).'
        return f'{head}: the class {given.__name__}. {_WRITE}'
    library = _library_of(given)
    if library is not None:
        return (
            f'{head}, a module of {library}. Modules of Flax NNX, Equinox and brainstate are taken as they are; any '
            'other model is the pair (function, parameters) with function(parameters, *inputs), for Flax Linen '
            '(module.apply, variables).'
        )
    kind = _kind_of(given)
    if kind == 'Posterior':
        return f'{head}: it is a Posterior already. Pass it on as it is, or its model, posterior.model.'
    if kind == 'Fit':
        return f'{head}, a result. Its posterior is fit.posterior; fit.assign_to(model) writes its values into a model.'
    if inspect.isfunction(given) and {'numpyro', 'sample'} & set(given.__code__.co_names):
        return (
            f'{head}: {given.__name__} is a NumPyro model. Write infer.Posterior.from_numpyro({given.__name__}, *args) '
            'with the arguments it is called with, data included.'
        )
    if callable(given) and not isinstance(given, jax.Array):
        return (
            f'{head}. A function has no parameters that could be fitted. Give it with them, as the pair '
            f'(function, parameters), with function(parameters, *inputs). {_WRITE}'
        )
    return f'{head}. {_WRITE} The arguments are (model, inputs, targets).'


def what_is_no_posterior(given: Any) -> str:
    """The error for what a way to fit is given in place of a Posterior, with what to write."""
    head = f'A way to fit takes a Posterior, got {type(given).__name__}'
    if isinstance(given, Module):
        return f'{head}, a model. Say what it is fitted to: infer.Posterior(model, inputs, targets).'
    if isinstance(given, type):
        return f'{head}: the class {given.__name__}. Write infer.Posterior(model, inputs, targets), with a model.'
    if _kind_of(given) == 'Fit':
        return f'{head}, a result. Its posterior is fit.posterior; where to start from it is init=fit.'
    return f'{head}. Write infer.Posterior(model, inputs, targets).'


def what_is_no_distribution(out: Any, kind: str) -> str:
    """The error for what a model returns, of this ``kind``, in place of a distribution, with what to write."""
    head = (
        'The model must return a NumPyro distribution of the targets, e.g. dist.Normal(mean, sigma), but returned '
        f'{kind}'
    )
    ways = (
        'Return one, pass likelihood=f with f(model, *inputs) -> distribution, or log_likelihood=f for a log density '
        'of your own.'
    )
    if out is None:
        return f'{head}: nothing. Does __call__ end with return? {ways}'
    if isinstance(out, type) and issubclass(out, dist.Distribution):
        return f'{head}. Call it with its parameters, dist.{out.__name__}(...).'
    if isinstance(out, Param):
        return f'{head}: a parameter. Its value is param.value(). {ways}'
    if isinstance(out, tuple | list) and any(isinstance(x, dist.Distribution) for x in out):
        return (
            f'{head} of {len(out)}. For several outputs return one distribution of an array that has them along an '
            f'axis, or use log_likelihood=f. {ways}'
        )
    if _library_of(out) is not None or 'tensorflow_probability' in type(out).__module__:
        return f'{head} of {type(out).__module__.split(".")[0]}. Use that of numpyro.distributions. {ways}'
    return f'{head}. {ways}'


def refuse_no_function(name: str, given: Any) -> None:
    """Refuse what is given as ``likelihood=`` or ``log_likelihood=`` in place of a function of the model.

    Raises
    ------
    TypeError
        With the form of such a function.
    """
    law = 'dist.Normal(m.b.value() * x, 1.0)'
    form = f'lambda m, x: {law}' if name == 'likelihood' else f'lambda m, x, targets: {law}.log_prob(targets)'
    if isinstance(given, type) and issubclass(given, dist.Distribution) and given.__module__.startswith('numpyro.'):
        what = f'the class dist.{given.__name__}, which would be called with the model in place of its parameters'
    elif isinstance(given, dist.Distribution):
        what = f'a distribution ({type(given).__name__}), which is fixed before the parameters have values'
    elif given is not None and not callable(given):
        what = type(given).__name__
    else:
        return
    raise TypeError(f'{name} must be a function of (model, *inputs), got {what}. Write {name}={form}.')


def _kind_of(value: Any) -> str | None:
    """``'Posterior'`` or ``'Fit'`` where it is one: their rooms import this one."""
    return next((c.__name__ for c in type(value).__mro__ if c.__name__ in ('Posterior', 'Fit')), None)


def _library_of(value: Any) -> str | None:
    modules = {c.__module__.split('.')[0] for c in type(value).__mro__}
    return next((name for module, name in _LIBRARIES.items() if module in modules), None)


# How a model is called


def check_call(function: Callable, args: tuple, kwargs: Mapping[str, Any], name: str = 'The model') -> None:
    """Whether ``function(*args, **kwargs)`` fits what it takes.

    Raises
    ------
    TypeError
        With what it takes, what the Posterior's inputs give, and how to write inputs.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        inputs = [x for x in args if not isinstance(x, Module)]
        given = [f'{len(args)} positional' if args else '', f'the keywords {list(kwargs)}' if kwargs else '']
        listed = any(isinstance(x, list) for x in inputs)
        raise TypeError(
            f'{name} takes {signature}, but the Posterior gives it {" and ".join(x for x in given if x) or "nothing"}: '
            f'{error}. Inputs are one array, a tuple of arrays (positional arguments), or a dict (keyword arguments).'
            + (' A list is one argument: write a tuple for several.' if listed else '')
        ) from None


# What JAX says while a model is called


@contextlib.contextmanager
def plain_words(model: Module, *names: str) -> Iterator[None]:
    """Say in plain words what a model does with a parameter's value that cannot be compiled.

    Parameters
    ----------
    model
        Whose Params the message names.
    *names
        Their paths, where they are known; default: those of the model.

    Raises
    ------
    TypeError, ValueError
        In place of JAX's errors about values in Python's ``if``, ``float()``, NumPy functions, shapes, indices and
        assignments in place, and of NumPyro's about numbers that a distribution does not take. It has the line of the
        model and, where that names one, the parameter's path; the original error is its cause. All others pass
        unchanged.
    """
    try:
        yield
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        paths = names or tuple('.'.join(map(str, path)) for path, _ in model.named_param_modules())
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(_sentence(told, error, paths)) from error


_SHAPES = re.compile(r'incompatible shapes|to have the same shape|broadcast')
_SHAPE = re.compile(r'\(\d+(?:, ?\d+)*,?\)|\(\)')
_COMBINES = 'combines arrays whose shapes do not fit each other'


def _is_ours(error: BaseException) -> bool:
    """Whether the library itself has raised an error, and says what is wrong."""
    *_, frame = traceback.walk_tb(error.__traceback__)
    return str(frame[0].f_globals.get('__name__', '')).split('.')[0] == 'brainstate_prob'


def misfit(error: BaseException, entries: Any, rows: int) -> str | None:
    """Why a model does not take another number of rows, where shapes in it are those of ``rows`` rows; else None."""
    if not isinstance(error, TypeError | ValueError) or not _SHAPES.search(str(error)) or _is_ours(error):
        return None
    each = [e.name for e in entries if rows > 1 and rows in e.value_shape]
    names = ', '.join(map(repr, each))
    held = f'Param {names} has' if len(each) == 1 else f'the Params {names} have'
    where, line = _place_of(error)
    at = f' ({where}: {line})' if line else ''
    if each:
        return f'{held} one number for each of the {rows} rows that were fitted{at}'
    return f'an array in it has the length of the {rows} rows that were fitted, or shapes do not agree{at}'


_FIRST = 'In likelihood= and log_likelihood= the model comes first: lambda m, x: ...'
_METHOD = re.compile(r"'method'|<class 'method'>|<bound method")
_OF_ARRAY = re.compile(r"Tracer'?(?: object)? has no attribute '?(\w+)")
_IN_PLACE = 'assigns to entries of an array in place'
_STORED = re.compile(r'setting an array element with a sequence')
_STORED_IN = 'assigns to an entry of an array of NumPy'
_STATE = re.compile(r"'\w*State'|\.\w*State'>")
_STATE_IN = 'computes with a State in place of the value that it holds'
_ARGUMENT = re.compile(r'(\w+) distribution got invalid (\w+) parameter')
_POSITIVE = (
    'It must be positive. A number is written without a sign; a Param stays positive with a transform, '
    'nn.Param(1.0, t=nn.SoftplusT(0.0)), and any other expression by jax.nn.softplus(...).'
)
_LAW = 'Look for its range in the documentation of the distribution.'
_RANGES = dict.fromkeys(('scale', 'rate', 'concentration', 'df', 'variance', 'scale_diag'), _POSITIVE) | {
    'probs': 'Probabilities lie between 0 and 1, those of classes add up to 1; for numbers of any size write logits=.',
}
_NOT_CALLED = 'computes with a method in place of the value that it gives'
_DEPENDS = re.compile(r'depends on the values? of the arguments? (\S+)')
_CONVERTERS = re.compile(r'the `(float|int|complex)` function|(item|tolist)\(\) method')


def _told(error: BaseException) -> tuple[str, str] | None:
    """What was done with the value, and the fix; None for an error of another kind."""
    text, e = str(error), jax.errors
    if _STORED.match(text) and isinstance(error.__cause__, e.TracerArrayConversionError | TypeError):
        return (_STORED_IN, 'Build it of its parts, jnp.stack([...]), or write z = jnp.zeros(n).at[i].set(value).')
    argument = _ARGUMENT.search(text) if isinstance(error, ValueError) else None
    if argument is not None:
        return f'gives {argument[1]} a {argument[2]} that it does not take', _RANGES.get(argument[2], _LAW)
    if isinstance(error, TypeError) and _STATE.search(text):
        return _STATE_IN, ''
    if isinstance(error, TypeError | ValueError) and _SHAPES.search(text) and not _is_ours(error):
        shapes = ' and '.join(dict.fromkeys(_SHAPE.findall(text)))
        fix = 'Compare the shapes of its Params with those of the inputs, columns included, and of the targets.'
        return f'{_COMBINES}{f", {shapes}" if shapes else ""}', fix
    if isinstance(error, e.TracerBoolConversionError):
        return (
            "in Python's if, while, and, or, max or assert",
            'Write jnp.where(condition, a, b) in place of if, & and | in place of and and or, jnp.maximum in place of '
            'max.',
        )
    if isinstance(error, e.NonConcreteBooleanIndexError):
        return (
            'in a comparison that selects entries, x[x > value], so that the shape would depend on it',
            'Keep all entries and write jnp.where(x > value, x, 0), or weigh them.',
        )
    if isinstance(error, e.TracerIntegerConversionError):
        return (
            'as a Python int, an index of a list or the length of range()',
            'Index arrays of jnp, jnp.asarray(list)[i]; take lengths from shapes or constants.',
        )
    if isinstance(error, e.TracerArrayConversionError):
        return ('in a function of NumPy or SciPy', 'Use that of jax.numpy (jnp) or jax.scipy, and jnp arrays.')
    if isinstance(error, e.ConcretizationTypeError):
        converter = _CONVERTERS.search(text)
        if converter is not None:
            done = f'in {converter[1] or converter[2]}() or a function of the math module'
            return (done, 'Leave the value as it is: arrays of no dimension are numbers. Use jnp in place of math.')
        return (
            'where a shape would depend on it',
            'Shapes must be constants: functions such as jnp.nonzero and jnp.unique take size=, others have a form '
            'with jnp.where.',
        )
    if isinstance(error, TypeError) and _METHOD.search(text):
        return _NOT_CALLED, ''
    if isinstance(error, AttributeError):
        attribute = _OF_ARRAY.search(text)
        if attribute is not None:
            return f'takes the attribute {attribute[1]!r} of an array, which has none of this name', _FIRST
        if getattr(error.obj, '__name__', '') == 'value' and callable(error.obj):
            return _NOT_CALLED, ''
    if isinstance(error, TypeError):
        if "Tracer' object is not callable" in text:
            return 'calls an array as a function', _FIRST
        if 'Shapes must be 1D sequences of concrete values' in text:
            return ('as a shape', 'Take shapes from constants or from the shapes of the inputs.')
        if 'unsupported format string passed to' in text and 'Tracer' in text:
            return ('in a format string', "Use jax.debug.print('{x:.2f}', x=value) to see it.")
        if 'do not support in-place item assignment' in text:
            return (_IN_PLACE, 'Arrays do not change: write x = x.at[i].set(y).')
    return None


def _sentence(told: tuple[str, str], error: BaseException, paths: tuple[str, ...]) -> str:
    done, fix = told
    where, line = _place_of(error)
    depends = _DEPENDS.search(str(error))
    named = [path for path in re.findall(r'\w+\.([\w.]+)\.value\(\)', line) if path in paths]
    at = f' ({where}: {line})' if line else ''
    if done == _NOT_CALLED:
        method = re.search(r'([\w.]+\.value)\b(?!\()', line)
        return f'The model {done}{at}: the parentheses are missing. Write {method[1] if method else "param.value"}().'
    if done == _STATE_IN:
        of_param = next((m for m in re.findall(r'([\w.]+)\.val\b', line)), None)
        write = f'{of_param}.value()' if of_param else 'param.value(); of a State of another kind, state.value'
        return f'The model {done}{at}. Write {write}.'
    if done in (_IN_PLACE, _STORED_IN) or fix == _FIRST or done.startswith(('gives ', _COMBINES)):
        return f'The model {done}{at}. {fix}'
    if depends is not None and re.match(r'(data|args|kwargs|inputs)\b', depends[1]):
        what = 'its inputs'
    elif named:
        what = f'the value of {named[0]!r}'
    else:
        what = 'a value that depends on parameters or inputs'
    return (
        f'The model uses {what} {done}{at}. A model is compiled once for all values of its parameters and inputs, '
        f'so it must not look at one of them. {fix}'
    )


def _place_of(error: BaseException) -> tuple[str, str]:
    """The file and line, and its text, of the last step in the user's own code."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_of_a_library(f.filename)]
    if not frames:
        return '', ''
    frame = frames[-1]
    text = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
    return f'{frame.filename.rsplit("/", 1)[-1]}, line {frame.lineno}', text


def _is_of_a_library(filename: str) -> bool:
    if filename.startswith('<') and 'ipython' not in filename:
        return filename != '<stdin>' and not filename.startswith('<string')
    name = filename.replace('\\', '/')
    return 'site-packages/' in name or '/brainstate_prob/' in name or '/lib/python3' in name or 'contextlib.py' in name
