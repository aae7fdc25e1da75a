"""The package as a whole: who imports whom, how classes are found, what a wheel holds."""

import ast
import email
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vitbackbones
from vitbackbones.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'vitbackbones'
MODULES = sorted(PACKAGE.rglob('*.py'))
# What `import vitbackbones` must never need, and the rooms that may need it when they are used.
FRAMEWORKS = {
    *('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'timm', 'matplotlib'),
    *('onnx', 'onnxruntime', 'onnxscript'),
}
OUTER = {
    *('launch', 'data', 'inference', 'benchmark', 'deploy', 'cli', 'formats', 'authoring'),
    *('reporting', 'plotting.py'),
}


def run_python(code, cwd, **environment):
    """What a fresh interpreter prints; it finds this package by PYTHONPATH alone."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), **environment}
    command = [sys.executable, '-W', 'ignore', '-c', code]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


# ------------------------------------------------------------------------------- imports


def imported(path, everywhere=True):
    """Absolute names of all that a module imports, annotations aside.

    ``from a import b`` counts as ``a.b``, for b may be a module.

    Args:
        everywhere: also what functions import when they run, not only the module itself.
    """
    tree = ast.parse(path.read_text(encoding='utf-8'))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    later = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, functions) and not everywhere
        for inner in ast.walk(node)
    }
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    names = set()
    for node in ast.walk(tree):
        if node in for_types or node in later:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parent.parts
            base = package[: len(package) + 1 - node.level] if node.level else ()
            base = '.'.join([*base, *([node.module] if node.module else [])])
            names |= {f'{base}.{alias.name}' for alias in node.names}
        elif isinstance(node, ast.Call) and 'import_module' in ast.unparse(node.func):
            names |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return names


def frameworks(names):
    return {name for name in names if matches(name, FRAMEWORKS)}


def matches(name, allowed):
    return any(name == a or name.startswith(f'{a}.') for a in allowed)


def module_id(path):
    return path.relative_to(PACKAGE).as_posix()


def only(path, packages, ours):
    """What a module imports beyond the standard library, ``packages`` and ``ours`` of this one."""
    allowed = {*packages, *(f'vitbackbones.{name}' for name in ours)}
    return {
        name
        for name in imported(path)
        if name.split('.')[0] not in sys.stdlib_module_names and not matches(name, allowed)
    }


@pytest.mark.parametrize('path', sorted((PACKAGE / 'layers').glob('*.py')), ids=module_id)
def test_layers_import_only_torch_and_each_other(path):
    assert only(path, {'torch'}, {'layers'}) == set()


@pytest.mark.parametrize(
    'path', [PACKAGE / 'registry.py', *sorted((PACKAGE / 'checkpoint').glob('*.py'))], ids=module_id
)
def test_registry_and_checkpoint_know_no_network(path):
    libraries = {'torch', 'mmengine', 'numpy', 'safetensors', 'huggingface_hub'}
    ours = {'registry', 'checkpoint', 'files', 'progress'}
    assert only(path, libraries, ours) == set()


@pytest.mark.parametrize('path', sorted((PACKAGE / 'installation').glob('*.py')), ids=module_id)
def test_the_installation_is_looked_at_by_the_standard_library_alone(path):
    assert only(path, set(), {'installation'}) == set()


def test_the_base_of_backbones_knows_no_backbone():
    parts = {'backbones.arch', 'backbones.listing', 'backbones.options'}
    ours = {*parts, 'checkpoint.names', 'layers', 'registry'}
    path = PACKAGE / 'backbones' / 'base.py'
    loader = 'vitbackbones.pretrained.load_pretrained'
    assert only(path, {'torch', 'mmengine'}, ours) == {loader}
    assert loader not in imported(path, everywhere=False)
    for name in ('listing', 'options'):
        inner = {'backbones.arch', 'checkpoint.names'}
        assert only(path.with_name(f'{name}.py'), {'torch'}, inner) == set()


#: Lines that are not blank, at most: beyond that a file wants to be split.
BUDGETS = {
    'arch': 110,
    'base': 200,
    'casvit': 250,
    'gcvit': 430,
    'sepvit': 350,
    'shvit': 250,
    'supervit': 400,
}


@pytest.mark.parametrize(('name', 'most'), BUDGETS.items())
def test_backbones_keep_to_their_budgets(name, most):
    text = (PACKAGE / 'backbones' / f'{name}.py').read_text(encoding='utf-8')
    assert len([line for line in text.splitlines() if line.strip()]) <= most


def test_an_arch_is_data():
    assert only(PACKAGE / 'backbones' / 'arch.py', set(), set()) == set()


@pytest.mark.parametrize(
    'path',
    [
        path
        for path in sorted((PACKAGE / 'backbones').glob('*.py'))
        if path.name not in ('__init__.py', 'arch.py', 'base.py', 'listing.py', 'options.py')
    ],
    ids=module_id,
)
def test_backbones_never_import_each_other(path):
    ours = {
        'backbones.arch',
        'backbones.base',
        'backbones.operating_point',
        'backbones.position_tables',
        'layers',
        'registry',
    }
    assert only(path, {'torch', 'typing_extensions'}, ours) == set()  # the second comes with torch


@pytest.mark.parametrize('path', MODULES, ids=module_id)
def test_frameworks_are_imported_by_the_outer_rooms_only_and_inside_functions(path):
    room = path.relative_to(PACKAGE).parts[0]
    assert frameworks(imported(path, everywhere=room not in OUTER)) == set()


@pytest.mark.parametrize(
    'path', [path for path in MODULES if PACKAGE / 'cli' not in path.parents], ids=module_id
)
def test_nothing_outside_the_command_line_imports_it(path):
    if path.name == '__main__.py':
        return  # is the command line
    assert {name for name in imported(path) if matches(name, {'vitbackbones.cli'})} == set()


def test_importing_the_package_loads_no_framework(tmp_path):
    loaded = run_python('import vitbackbones, sys; print(*sys.modules)', tmp_path).split()
    assert 'vitbackbones.backbones' in loaded
    assert {*loaded} & {
        *FRAMEWORKS,
        'cv2',
        'torchvision',
        'safetensors',
        'huggingface_hub',
    } == set()


def test_importing_the_package_and_its_commands_does_not_import_the_compiler(tmp_path):
    """Half a second or more, which whoever compiles pays anyway."""
    modules = [f'vitbackbones.cli.{name.replace("-", "_")}' for name in COMMANDS]
    code = f'import sys, {", ".join(modules)}; print(*sys.modules)'
    loaded = {*run_python(code, tmp_path).split()}
    assert {*modules} <= loaded
    assert {'torch._dynamo', 'torch._inductor'} & loaded == set()


@pytest.mark.parametrize('words', [['--help'], ['--version'], ['-h'], []])
def test_help_and_version_import_neither_torch_nor_mmengine(words, tmp_path):
    code = (
        'import runpy, sys\n'
        f'sys.argv = ["vitbackbones", *{words}]\n'
        'try:\n'
        '    runpy.run_module("vitbackbones", run_name="__main__")\n'
        'except SystemExit:\n'
        '    print("loaded", *sys.modules)'
    )
    loaded = {*run_python(code, tmp_path).split('loaded ')[-1].split()}
    assert 'vitbackbones.cli.main' in loaded
    assert {'torch', 'numpy', 'mmengine', 'vitbackbones.backbones'} & loaded == set()


def test_imports_inside_functions_and_relative_ones_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], 'ROOT', tmp_path)
    path = tmp_path / 'vitbackbones' / 'backbones' / 'x.py'
    path.parent.mkdir(parents=True)
    path.write_text(
        'from . import sepvit\n'
        'from ..layers import Mlp\n'
        'def f():\n    import mmcv.ops\n    import_module("mmdet")\n'
        'if TYPE_CHECKING:\n    import timm\n'
    )
    assert imported(path) == {
        'vitbackbones.backbones.sepvit',
        'vitbackbones.layers.Mlp',
        'mmcv.ops',
        'mmdet',
    }
    assert imported(path, everywhere=False) == {
        'vitbackbones.backbones.sepvit',
        'vitbackbones.layers.Mlp',
    }


# --------------------------------------------------------------------------------- rooms

NAMES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in MODULES
}
# Against the direction of rooms, inside a function: weights of an `init_cfg` are loaded into the
# network that has it.
AGAINST = {('vitbackbones.backbones.base', 'vitbackbones.pretrained')}
LARGEST_ROOM = 0.2  # of the lines of the package
CLI_LINES, LINES_PER_NEW_COMMAND, COMMANDS_THEN = 2000, 120, 14
LONGEST_COMMAND = 120


def room(name):
    """The folder of the package that a module lies in, or what stands next to the folders."""
    return name.split('.')[1] if '.' in name else name


def import_graph(everywhere):
    """{module: modules of ours that it imports}."""
    graph = {}
    for name, path in NAMES.items():
        found = set()
        for target in imported(path, everywhere):
            while target and target not in NAMES:  # what stands in a module
                target = target.rpartition('.')[0]
            found |= {target} - {'', name}
        graph[name] = found
    return graph


def circle(graph):
    """Nodes of a circle, the first again at the end; None if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def lines(path):
    return len(path.read_text(encoding='utf-8').splitlines())


def test_no_modules_import_each_other_in_a_circle():
    assert circle(import_graph(everywhere=False)) is None


def test_no_rooms_import_each_other_in_a_circle():
    graph = import_graph(everywhere=True)
    edges = {(name, target) for name, targets in graph.items() for target in targets}
    assert edges >= AGAINST
    rooms = {}
    for name, target in edges - AGAINST:
        if room(target) != room(name):
            rooms.setdefault(room(name), set()).add(room(target))
    assert {'launch', 'data', 'inference'} <= rooms['benchmark']
    assert circle(rooms) is None


def test_a_circle_is_found():
    assert circle({'a': {'b'}, 'b': {'c'}, 'c': set()}) is None
    assert sorted({*circle({'a': {'b'}, 'b': {'c'}, 'c': {'b'}})}) == ['b', 'c']


def test_no_room_is_larger_than_a_fifth_of_the_package():
    sizes = Counter()
    for name, path in NAMES.items():
        sizes[room(name)] += lines(path)
    largest, size = sizes.most_common(1)[0]
    assert size <= LARGEST_ROOM * sizes.total(), largest


def test_commands_are_thin():
    paths = {path.stem: path for path in (PACKAGE / 'cli').glob('*.py')}
    commands = {name.replace('-', '_') for name in COMMANDS}
    assert {*paths} == commands | {'__init__', 'main', 'arguments'}
    assert {name for name in commands if lines(paths[name]) > LONGEST_COMMAND} == set()
    new = max(0, len(commands) - COMMANDS_THEN)
    assert sum(map(lines, paths.values())) <= CLI_LINES + LINES_PER_NEW_COMMAND * new


# ------------------------------------------------------------------------------ registry


@pytest.fixture(scope='module')
def registered(tmp_path_factory):
    """{name of mmengine's root registry: names of the classes that this package adds}."""
    code = (
        'import json\n'
        'from mmengine.registry import Registry\n'
        'from vitbackbones import registry\n'
        'found = {}\n'
        'for ours in vars(registry).values():\n'
        '    if isinstance(ours, Registry) and ours.scope == registry.SCOPE:\n'
        '        assert all(ours.parent.get(n) is c for n, c in ours.module_dict.items())\n'
        '        found[ours.name] = sorted(ours.module_dict)\n'
        'print(json.dumps(found))'
    )
    return json.loads(run_python(code, tmp_path_factory.mktemp('cwd')))


def test_all_backbones_are_registered(registered):
    from vitbackbones import backbones

    assert {*backbones.__all__} <= {*registered['model']}


def test_classes_are_found_by_prefixed_name_without_importing_the_package(registered, tmp_path):
    code = (
        'import json, sys\n'
        'from mmengine import registry\n'
        'roots = {r.name: r for r in vars(registry).values() if isinstance(r, registry.Registry)}\n'
        'assert "vitbackbones" not in sys.modules\n'
        f'for name, classes in json.loads({json.dumps(registered)!r}).items():\n'
        '    for cls in classes:\n'
        '        assert roots[name].get(f"vitbackbones.{cls}").__name__ == cls, cls'
    )
    run_python(code, tmp_path)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_backbones_are_found_by_plain_name_from_other_scopes(scope, tmp_path):
    code = (
        'import vitbackbones\n'
        f'from {scope}.registry import MODELS\n'
        'for name in vitbackbones.backbones.__all__:\n'
        '    assert MODELS.get(name) is getattr(vitbackbones.backbones, name), name'
    )
    run_python(code, tmp_path)


# --------------------------------------------------------------------------------- wheel


@pytest.fixture(scope='module')
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp('unpacked')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel_holds_all_modules_and_no_other_package(unpacked):
    found = {path.relative_to(unpacked / 'vitbackbones') for path in unpacked.rglob('*.py')}
    assert {path.relative_to(PACKAGE) for path in MODULES} <= found
    folders = {path.name.removesuffix('.dist-info') for path in unpacked.iterdir()}
    assert folders == {'vitbackbones', f'vitbackbones-{vitbackbones.__version__}'}


@pytest.mark.parametrize('name', ['configs', 'tools', 'model-index.yml'])
def test_wheel_holds_what_the_checkout_has(unpacked, name):
    def contents(root):
        files = root.rglob('*') if root.is_dir() else [root]
        return {
            file.relative_to(root): file.read_bytes()
            for file in files
            if file.is_file() and file.suffix in ('.py', '.sh', '.yml')
        }

    assert contents(ROOT / name)
    assert contents(unpacked / 'vitbackbones' / '.mim' / name) == contents(ROOT / name)


def test_wheel_installs_the_command(unpacked):
    (entry_points,) = unpacked.glob('*.dist-info/entry_points.txt')
    assert 'vitbackbones = vitbackbones.cli.main:main' in entry_points.read_text()


def test_wheel_says_what_it_needs_and_that_it_has_types(unpacked):
    (metadata,) = unpacked.glob('*.dist-info/METADATA')
    said = email.message_from_string(metadata.read_text(encoding='utf-8'))
    assert said['License-Expression'] == 'Apache-2.0'
    needed = {line for line in said.get_all('Requires-Dist') if 'extra ==' not in line}
    assert needed == {'torch>=2.4', 'mmengine>=0.10.6', 'setuptools<82', 'numpy', 'pillow'}
    assert {*said.get_all('Provides-Extra')} == {
        'det',
        'seg',
        'cls',
        'export',
        'safetensors',
        'hub',
        'tile',
        'all',
    }
    assert (unpacked / 'vitbackbones/py.typed').is_file()


def test_the_citation_is_of_this_version():
    lines = (ROOT / 'CITATION.cff').read_text(encoding='utf-8').splitlines()
    assert f'version: {vitbackbones.__version__}' in lines


def test_building_imports_nothing_but_setuptools():
    names = {name.split('.')[0] for name in imported(ROOT / 'setup.py')}
    assert names - sys.stdlib_module_names == {'setuptools'}
    # A version that had to be computed would be had by importing the package, and torch.
    tree = ast.parse((PACKAGE / '__init__.py').read_text(encoding='utf-8'))
    values = {
        ast.unparse(node.targets[0]): node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    assert ast.literal_eval(values['__version__']) == vitbackbones.__version__


@pytest.mark.parametrize('name', ['configs', 'tools', 'model-index.yml'])
def test_links_for_openmim_are_relative(name):
    link = PACKAGE / '.mim' / name
    assert os.readlink(link) == f'../../{name}'
    assert link.exists()
