"""What ARCHITECTURE.md and CONTRIBUTING.md say of this repository."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import FAST
from tests.test_package import MODULES, PACKAGE, imported
from vitbackbones.backbones.base import Backbone

ROOT = Path(__file__).parents[1]
SUFFIXES = ('.md', '.py', '.sh', '.toml', '.txt', '.yml')
# The one import against the order of rooms: a backbone loads the file that its config names.
AGAINST = ('backbones', 'pretrained')


def named_files(page: str) -> set[str]:
    """Files and folders in backquotes, without those that stand for any of a kind."""
    text = re.sub(r'```.*?```', '', (ROOT / page).read_text(encoding='utf-8'), flags=re.DOTALL)
    words = {word for word in re.findall(r'`([\w./-]+)`', text) if word[0] not in './'}
    return {
        word
        for word in words
        if ('/' in word or word.endswith(SUFFIXES)) and 'NAME' not in word and '_x.' not in word
    }


def rooms() -> list[str]:
    """Modules and folders of the package in the order of the table: each below the next."""
    text = (ROOT / 'ARCHITECTURE.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| (`vitbackbones/.*?) \|', text, flags=re.MULTILINE)
    return [name for row in rows for name in re.findall(r'`vitbackbones/(\w+)(?:/|\.py)`', row)]


@pytest.mark.parametrize('page', ['ARCHITECTURE.md', 'CONTRIBUTING.md'])
def test_the_files_that_a_page_names_exist(page: str) -> None:
    names = named_files(page)
    assert names
    lost = [
        name
        for name in names
        if not (ROOT / name).exists()
        and not (PACKAGE / name).exists()
        and not ('/' not in name and [*PACKAGE.rglob(name)])
    ]
    assert lost == []


def test_every_room_is_in_the_table() -> None:
    found = {path.relative_to(PACKAGE).parts[0].removesuffix('.py') for path in MODULES}
    assert {*rooms()} == found - {'__init__', '__main__'}


def test_no_network_is_known_by_name_outside_its_room_and_the_table_of_heads() -> None:
    names, wrong = {*Backbone.registered(), 'SuperViTClassifier'}, []
    for path in MODULES:
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith('backbones/') and place != 'classifiers/heads.py':
            nodes = ast.walk(ast.parse(path.read_text(encoding='utf-8')))
            texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
            wrong += [(place, name) for name in names & texts]
    assert wrong == []


def test_no_room_imports_from_one_below_it_in_the_table() -> None:
    order = {room: i for i, room in enumerate(rooms())}
    wrong = set()
    for path in MODULES:
        own = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
        for name in imported(path) if own in order else ():
            package, _, rest = name.partition('.')
            other = rest.partition('.')[0]
            if package == 'vitbackbones' and order.get(other, -1) > order[own]:
                wrong.add((own, other))
    assert wrong <= {AGAINST}


def test_some_tests_of_every_room_are_fast() -> None:
    texts = [(ROOT / 'tests' / f'{name}.py').read_text(encoding='utf-8') for name in FAST]
    untested = [
        room
        for room in rooms()
        if (PACKAGE / room).is_dir() and not any(f'vitbackbones.{room}' in text for text in texts)
    ]
    assert untested == []
