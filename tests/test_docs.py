"""What the pages tell a user to type."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.config_types import lost_types
from vitbackbones.cli.main import _parser
from vitbackbones.launch.checks import build_backbone
from vitbackbones.launch.loading import load_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('configs/**/*.md')])
TRAINING = (ROOT / 'docs/training.md').read_text(encoding='utf-8')
TOOLS = {'tools/train.py': 'train', 'tools/dist_train.sh': 'train', 'tools/test.py': 'test'}


def blocks(language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', TRAINING, flags=re.DOTALL)


def commands() -> list[str]:
    """Lines of the training page that run one of our tools, without what comes before it."""
    lines = [
        shlex.split(line, comments=True) for block in blocks('bash') for line in block.split('\n')
    ]
    starts = [(line, [i for i, word in enumerate(line) if word in TOOLS]) for line in lines]
    return [shlex.join(line[start[0] :]) for line, start in starts if start]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    links = {link for link in re.findall(r'\]\(([^)#\s]+)', text) if '://' not in link}
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize('line', commands())
def test_commands_of_the_training_page_are_accepted(
    monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(ROOT)
    default = re.search(r'^CONFIG=(.*)$', TRAINING, flags=re.MULTILINE)[1]
    tool, *words = [default if word == '$CONFIG' else word for word in shlex.split(line)]
    if tool == 'tools/dist_train.sh':  # the second word is the number of processes
        assert words.pop(1).isdigit()
    args = _parser(TOOLS[tool]).parse_args([TOOLS[tool], *words])
    cfg = load_config(args.config, args.cfg_options)
    assert build_backbone(cfg) is not None
    assert lost_types(cfg) == []
    for key, value in (args.cfg_options or {}).items():
        if not key.endswith('._delete_'):
            assert _at(cfg, key) == value


def _at(node: object, key: str) -> object:
    for part in key.split('.'):
        node = node[int(part) if isinstance(node, list) else part]
    return node


@pytest.mark.parametrize('text', blocks('python'))
def test_configs_of_the_training_page_can_be_read(tmp_path: Path, text: str) -> None:
    if '_base_ =' not in text:
        text = "_base_ = 'vitbackbones::detection/sepvit_retinanet.py'\n" + text
    (tmp_path / 'own.py').write_text(text)
    cfg = load_config(str(tmp_path / 'own.py'))
    assert build_backbone(cfg) is not None
    assert lost_types(cfg) == []
