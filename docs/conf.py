"""Sphinx configuration: MyST pages, executed notebooks, and an API reference of what each public room exports."""

import importlib
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from api_pages import write_api_pages

import brainstate_prob

project = 'brainstate_prob'
author = copyright = 'The brainstate_prob developers'
version = release = brainstate_prob.__version__

extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.autosummary', 'sphinx.ext.mathjax', 'sphinx.ext.napoleon']
exclude_patterns = ['_build', '_templates', '**.ipynb_checkpoints']
templates_path = ['_templates']
# .rst first: what autosummary writes has the first suffix that it takes for its own.
source_suffix = {'.rst': 'restructuredtext', '.md': 'myst-nb', '.ipynb': 'myst-nb'}

myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath']
myst_heading_anchors = 3
nb_execution_mode = 'off'  # `make notebooks` has executed them

autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = 'none'  # the parameter sections say it
autodoc_member_order = 'bysource'
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = 'furo'
html_title = f'brainstate_prob {release}'
html_show_sourcelink = False

# The public rooms, in the order in which a reader meets them; those that do not exist yet are left out.
ROOMS = ['nn', 'nn.init', 'nn.functional', 'infer', 'transform', 'random', 'graph', 'environ', 'core', 'interop']
write_api_pages(HERE / 'api', [f'brainstate_prob.{room}' for room in ROOMS], importlib.import_module)
