"""Execute a notebook script: python notebooks/run.py notebooks/name.py docs/notebooks/name.ipynb.

The scripts in this folder (jupytext, percent format) are the source; the executed notebook is for the documentation
and is not committed. A cell that raises ends the run with its traceback and leaves no notebook behind.
"""

import os
import pathlib
import sys
import tempfile
import time

import jupytext
from nbclient import NotebookClient
from traitlets.config import Config


def run(source, target):
    """Execute the script `source` in its own folder and write the notebook `target`."""
    start = time.perf_counter()
    notebook = jupytext.read(source)
    notebook.metadata['kernelspec'] = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
    with tempfile.TemporaryDirectory() as sockets:  # the kernel listens on files there, not on ports
        NotebookClient(
            notebook,
            timeout=1200,
            coalesce_streams=True,
            config=Config({'KernelManager': {'transport': 'ipc', 'ip': f'{sockets}/kernel'}}),
            resources={'metadata': {'path': str(source.parent)}},
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop('execution', None)  # wall-clock times: they change at every run
    target.parent.mkdir(parents=True, exist_ok=True)
    jupytext.write(notebook, target)
    print(f'{source}: {time.perf_counter() - start:.0f} s -> {target}')


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    # Debugger files are not frozen modules; without this the kernel warns at every start.
    os.environ.setdefault('PYDEVD_DISABLE_FILE_VALIDATION', '1')
    # The notebooks show no progress bars, so tqdm need not say at import that there are no widgets for them.
    os.environ.setdefault('PYTHONWARNINGS', 'ignore:IProgress not found')
    run(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
