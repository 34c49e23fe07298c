"""Checkpoints: a long run saves its state to a file at intervals, and resumes from it after a crash.

`Driver` and `Optimization` decide when to save. Results must not depend on where the chunks end.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from brainstate_prob.infer.target.fingerprint import differences_of
from brainstate_prob.infer.target.options import check_saving

try:
    import fcntl
except ImportError:  # Windows has no lock on the checkpoint file
    fcntl = None  # type: ignore[assignment]

__all__ = ['Checkpoint', 'Saved', 'interruption', 'keep_in', 'nothing_yet', 'read_checkpoint', 'write_checkpoint']

_FORMAT = 1
_RECORD = 'brainstate_prob.json'
_SECONDS = 30.0  # seconds between two saves, without checkpoint_every=
_SHARE = 0.05  # share of the time spent on saving, without checkpoint_every=


class Saved(NamedTuple):
    """The contents of a checkpoint: completed steps, state of the loop, growing arrays, and plain extras."""

    step: int
    state: Any
    arrays: dict[str, np.ndarray]
    extra: dict[str, Any]


class Checkpoint:
    """The checkpoint of a run, as a context that locks the file.

    Parameters
    ----------
    path
        The file; None for no checkpoints: everything below then does nothing.
    every
        Save after so many steps. Default: every 30 seconds, less often where saving takes more than 5 % of the time.
    fingerprint
        Gives that of the run (`fingerprint_of`); called only where there is a path.

    Raises
    ------
    ValueError
        For an ``every`` that is no positive int or has no path; on entering, where another run has the file open.
    FileNotFoundError
        On entering, where the folder does not exist.
    """

    def __init__(self, path: str | os.PathLike | None, every: int | None, fingerprint: Callable[[], dict[str, Any]]):
        check_saving(path, every)
        if path is not None and jax.process_count() > 1:
            raise ValueError(
                f'checkpoint={path!r} is written by a run of one process, and this one is of {jax.process_count()}, '
                'which share their arrays. Leave checkpoint= out, or run in one process.'
            )
        self.path = None if path is None else os.path.abspath(os.fspath(path))
        self.every = None if every is None else int(every)
        self.step = 0  # completed steps, from `load` and `due`
        self._fingerprint = {} if path is None else fingerprint()
        self._saved_step = 0
        self._saved_at = time.monotonic()
        self._cost = 0.0
        self._lock: IO | None = None

    def __enter__(self) -> Checkpoint:
        if self.path is not None:
            self._lock = _locked(f'{self.path}.lock')
            with contextlib.suppress(FileNotFoundError):
                os.remove(_temporary(self.path))  # left by a run that was killed while writing
        self._saved_at = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):  # Windows cannot remove an open file
                os.remove(self._lock.name)
            self._lock.close()
            self._lock = None

    @property
    def saved_step(self) -> int:
        """The number of steps in the file, as far as this run knows."""
        return self._saved_step

    @property
    def exists(self) -> bool:
        """Whether there is a file to resume from."""
        return self.path is not None and os.path.exists(self.path)

    def load(self, like: Any, *, total: int | None = None) -> Saved | None:
        """The contents of the file, with the state in the structure of ``like``; None without a file.

        Parameters
        ----------
        like
            A state of the same run, such as its first: a pytree of arrays, keys and Python numbers.
        total
            How many steps the run is to have; fewer than the file has are refused.

        Raises
        ------
        ValueError
            For a file that is no whole checkpoint, or that of another run, naming what differs.
        """
        if self.path is None or not self.exists:
            return None
        record, arrays = read_checkpoint(self.path)
        different = differences_of(record['fingerprint'], self._fingerprint)
        if different:
            raise ValueError(
                f'{self.path!r} is the checkpoint of another run: {"; ".join(different)}. Give another path, or remove '
                'the file to start anew.'
            )
        if total is not None and record['step'] > total:
            raise ValueError(
                f'{self.path!r} holds {record["step"]} steps, more than the {total} asked for. Ask for at least as '
                'many, give another path, or remove the file to start anew.'
            )
        state = _state_of(self.path, record, arrays, like)
        self.step = self._saved_step = record['step']
        grown = {name[2:]: array for name, array in arrays.items() if name.startswith('a/')}
        return Saved(record['step'], state, grown, record['extra'])

    def due(self, step: int) -> bool:
        """Whether to save now that ``step`` steps are done."""
        self.step = int(step)
        if self.path is None or self.step == self._saved_step:
            return False
        if self.every is not None:
            return self.step // self.every > self._saved_step // self.every
        return time.monotonic() - self._saved_at > max(_SECONDS, self._cost / _SHARE)

    def save(self, state: Any, arrays: Mapping[str, Any] | None = None, extra: Mapping[str, Any] | None = None) -> None:
        """Write the file atomically.

        Parameters
        ----------
        state
            As ``like`` of `load`.
        arrays
            Arrays whose shapes grow.
        extra
            Plain data.
        """
        if self.path is None:
            return
        began = time.monotonic()
        contents = {f's/{i}': leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        contents |= {f'a/{name}': array for name, array in (arrays or {}).items()}
        record = {'fingerprint': self._fingerprint, 'step': self.step, 'extra': dict(extra or {})}
        write_checkpoint(self.path, record, contents)
        self._saved_step, self._saved_at = self.step, time.monotonic()
        self._cost = self._saved_at - began

    def finish(
        self, state: Any, arrays: Mapping[str, Any] | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        """Save the end of the run, unless it is in the file already, so that the next call only loads it."""
        if self.step != self._saved_step:
            self.save(state, arrays, extra)


def interruption(done: str, saving: Checkpoint) -> str:
    """The message of a run that Ctrl-C ended after ``done``, with a partial result."""
    return f'The run was interrupted after {done}: the fit is of the partial result.{_how_to_resume(saving)}'


def nothing_yet(done: str, saving: Checkpoint) -> KeyboardInterrupt:
    """The exception of a run that Ctrl-C ended without a result."""
    return KeyboardInterrupt(f'The run was interrupted {done}, so there is no fit to return.{_how_to_resume(saving)}')


def keep_in(error: Exception, fit: Callable[[], Any], done: str, saving: Checkpoint) -> None:
    """Attach the partial result to an error of the user's code, with a note.

    Parameters
    ----------
    fit
        Makes the result; where it cannot, there is none.
    """
    what = 'there is no fit of so few steps'
    with contextlib.suppress(Exception, KeyboardInterrupt):
        error.fit = fit()  # type: ignore[attr-defined]
        what = 'the partial fit is the attribute fit of this error'
    error.add_note(f'It was raised after {done}: {what}.{_how_to_resume(saving)}')


def _how_to_resume(saving: Checkpoint) -> str:
    if saving.path is None:
        return ' With checkpoint=path the next run would resume from here.'
    if not saving.exists:
        return f' Nothing was saved to {saving.path!r} yet.'
    return f' {saving.path!r} holds its first {saving.saved_step} steps; the same call resumes from there.'


def write_checkpoint(path: str, record: dict[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write plain data and arrays (random keys too) to one file, atomically and so that it survives a power cut."""
    plain: dict[str, np.ndarray] = {}
    kinds: dict[str, str] = {}
    for name, x in arrays.items():
        kinds[name], plain[name] = _encoded(x)
    record = {'format': _FORMAT, 'kinds': kinds, **record}
    plain[_RECORD] = np.frombuffer(json.dumps(record).encode(), np.uint8)
    temporary = _temporary(path)
    try:
        with open(temporary, 'wb') as file:
            np.savez(file, **plain)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(os.path.dirname(path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def read_checkpoint(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain data and arrays of `write_checkpoint`, with their dtypes.

    Raises
    ------
    ValueError
        For a file that was damaged or is no checkpoint.
    """
    try:
        with open(path, 'rb') as stream, np.load(stream, allow_pickle=False) as file:
            plain = {name: file[name] for name in file.files}
        record = json.loads(bytes(plain.pop(_RECORD)))
        known = record['format'] <= _FORMAT
        arrays = {name: _decoded(record['kinds'][name], x) for name, x in plain.items()} if known else {}
    except PermissionError:
        raise
    except Exception as error:  # a damaged file can raise anything in the readers
        raise ValueError(
            f'{path!r} is not a checkpoint, or is damaged: {type(error).__name__}: {error}. Give another path, or '
            'remove the file to start anew.'
        ) from None
    if not known:
        raise ValueError(
            f'{path!r} has format {record["format"]}, this version reads up to {_FORMAT}. Update brainstate_prob.'
        )
    return record, arrays


def _encoded(x: Any) -> tuple[str, np.ndarray]:
    """The type of ``x``, and its bytes as an array that NumPy can save."""
    if isinstance(x, bool | int | float):
        return type(x).__name__, np.asarray(x)
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return f'key {jax.random.key_impl(x)}', np.asarray(jax.random.key_data(x))
    array = np.asarray(x)
    kind = f'array {array.dtype.name}'
    return kind, array.view(f'u{array.dtype.itemsize}') if array.dtype.isbuiltin == 2 else array  # bfloat16 ...


def _decoded(kind: str, x: np.ndarray) -> Any:
    sort, _, name = kind.partition(' ')
    if sort == 'key':
        return jax.random.wrap_key_data(jnp.asarray(x), impl=name)
    if sort == 'array':
        return x.view(jnp.dtype(name)) if x.dtype.name != name else x
    return {'bool': bool, 'int': int, 'float': float}[sort](x[()])


def _state_of(path: str, record: dict[str, Any], arrays: Mapping[str, Any], like: Any) -> Any:
    """The state in the file, with its leaves on the host or on devices as in ``like``."""
    leaves, tree = jax.tree.flatten(like)
    saved = [arrays[f's/{i}'] for i in range(sum(name.startswith('s/') for name in arrays))]
    kinds = [(_encoded(x)[0], np.shape(x)) for x in leaves]
    saved_kinds = [(record['kinds'][f's/{i}'], np.shape(x)) for i, x in enumerate(saved)]
    if kinds != saved_kinds:
        at = next((i for i, (a, b) in enumerate(zip(saved_kinds, kinds, strict=False)) if a != b), None)
        what = (
            f'{len(saved_kinds)} arrays there, {len(kinds)} here'
            if at is None
            else f'{saved_kinds[at]} there, {kinds[at]} here'
        )
        raise ValueError(f'{path!r} holds a state of another structure: {what}. Remove the file to start anew.')
    return jax.tree.unflatten(tree, [_placed(x, a) for x, a in zip(saved, leaves, strict=True)])


def _placed(x: Any, like: Any) -> Any:
    if not isinstance(like, jax.Array):
        return x
    return jax.device_put(x, like.sharding) if like.committed else jnp.asarray(x)


def _temporary(path: str) -> str:
    return os.path.join(os.path.dirname(path), f'.{os.path.basename(path)}.tmp')


def _sync_folder(folder: str) -> None:
    """Flush a rename in ``folder`` to disk, where the system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _locked(path: str) -> IO | None:
    """An exclusively locked file; the system releases the lock when the process ends."""
    if fcntl is None:
        return None
    while True:
        file = open(path, 'a+')  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or 'unknown'
            file.close()
            raise ValueError(
                f'Another run (process {owner}) writes the checkpoint {path.removesuffix(".lock")!r}. Wait for it, or '
                'give each run a path of its own.'
            ) from None
        except OSError:  # the file system has no locks
            return file
        try:
            if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                return file
        except FileNotFoundError:  # the last owner has just removed it
            pass
        file.close()
