"""Write the pages of the API reference: one a public room, its names grouped by the file that they live in."""

import importlib.util
import itertools


def exists(name):
    """Whether the module `name` can be found (its parents included)."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def summary(module):
    """First sentence of a module's docstring."""
    return (module.__doc__ or '').strip().split('\n')[0]


def room_page(name, import_module):
    """MyST text of the page of one room."""
    room = import_module(name)
    names = getattr(room, '__all__', None) or sorted(n for n in vars(room) if not n.startswith('_'))

    def home(public):
        module = getattr(getattr(room, public), '__module__', None) or name
        return module if module.startswith(f'{name}.') else name

    lines = [f'# {name.removeprefix("brainstate_prob.")}', '', room.__doc__ or '', '']
    homes = list(dict.fromkeys(home(n) for n in names))
    for module, group in itertools.groupby(sorted(names, key=lambda n: homes.index(home(n))), key=home):
        if len(homes) > 1:
            lines += [f'## {module.removeprefix(f"{name}.")}', '', summary(import_module(module)), '']
        lines += ['```{eval-rst}', f'.. currentmodule:: {name}', '', '.. autosummary::', f'   :toctree: {name}/', '']
        lines += [f'   {n}' for n in group]
        lines += ['```', '']
    return '\n'.join(lines), names


def write_api_pages(folder, rooms, import_module):
    """Write `folder`/index.md and a page for every room that exists; drop the pages of what exists no longer."""
    rooms = [room for room in rooms if exists(room)]
    pages, objects = {}, set()
    for room in rooms:
        pages[f'{room}.md'], names = room_page(room, import_module)
        objects |= {folder / room / f'{room}.{name}.rst' for name in names}
    pages['index.md'] = '\n'.join(
        [
            '# API reference',
            '',
            'The public names, by the room of the package that exports them.',
            '',
            '```{toctree}',
            *(f'{room.removeprefix("brainstate_prob.")} <{room}>' for room in rooms),
            '```',
            '',
        ]
    )
    folder.mkdir(exist_ok=True)
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:  # an unchanged page is not built again
            path.write_text(text)
    for path in folder.rglob('*'):
        if path.is_file() and path.name not in pages and path not in objects:
            path.unlink()
