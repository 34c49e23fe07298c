"""Print the exact versions that this project and all its extras resolve to under this interpreter (`make lock`)."""

import json
import pathlib
import subprocess
import sys
import tempfile
import tomllib

root = pathlib.Path(__file__).resolve().parents[1]
extras = tomllib.loads((root / 'pyproject.toml').read_text())['project']['optional-dependencies']

with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder) / 'report.json'
    subprocess.run(
        [
            *(sys.executable, '-m', 'pip', 'install', '--quiet', '--dry-run', '--ignore-installed'),
            *('--report', report, f'{root}[{",".join(extras)}]'),
        ],
        check=True,
    )
    resolved = {i['metadata']['name']: i['metadata']['version'] for i in json.loads(report.read_text())['install']}

version = '.'.join(map(str, sys.version_info[:2]))
print(f'# What every make target installs under Python {version}. Written by `make lock`; do not edit.')
for name in sorted(resolved, key=str.lower):
    if name != 'brainstate-prob':
        print(f'{name}=={resolved[name]}')
