"""The time of `import brainstate_prob` beside that of `import numpyro`: each in new processes, by turns.

python benchmarks/imports.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

STATEMENTS = ('import numpyro', 'import brainstate_prob', 'from brainstate_prob import infer')
REPEATS = 7


def seconds(statement: str) -> float:
    """Wall time of a process that only does this."""
    began = time.perf_counter()
    subprocess.run([sys.executable, '-c', statement], check=True)
    return time.perf_counter() - began


def main() -> None:
    """Print medians and their ratio to NumPyro's."""
    times: dict[str, list[float]] = {s: [] for s in STATEMENTS}
    for s in STATEMENTS:
        seconds(s)  # files into the cache
    for _ in range(REPEATS):
        for s in STATEMENTS:
            times[s].append(seconds(s))
    base = statistics.median(times['import numpyro'])
    for s, t in times.items():
        print(f'  {s:36} {statistics.median(t):6.2f} s   {statistics.median(t) / base:5.2f} of NumPyro')
    print('  goal: at most 1.15')


if __name__ == '__main__':
    main()
