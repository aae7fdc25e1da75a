"""What the pages tell a user to type."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.config_types import lost_types
from vitbackbones.cli.main import read_arguments
from vitbackbones.data.sources import sources
from vitbackbones.launch.checks import build_backbone, check_config
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
    args = read_arguments([TOOLS[tool], *words])
    cfg = load_config(args.config, args.cfg_options)
    assert build_backbone(cfg) is not None
    assert lost_types(cfg) == []
    for key, value in (args.cfg_options or {}).items():
        if not key.endswith('._delete_'):
            assert _at(cfg, key) == value


def test_the_blood_cells_are_written_where_their_example_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / 'BCCD_Dataset/BCCD'
    thing = (
        '<object><name>{}</name><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>30</xmax><ymax>20</ymax>'
        '</bndbox></object>'
    )
    size = '<size><width>64</width><height>48</height></size>'
    things = ''.join(map(thing.format, ('Platelets', 'RBC', 'WBC')))
    for split, name in (('train', 'a'), ('val', 'b')):
        for file, text in (
            (f'ImageSets/Main/{split}.txt', f'{name}\n'),
            (f'Annotations/{name}.xml', f'<annotation>{size}{things}</annotation>'),
        ):
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).write_text(text)
        (source / 'JPEGImages').mkdir(exist_ok=True)
        Image.new('RGB', (64, 48)).save(source / f'JPEGImages/{name}.jpg')
    monkeypatch.chdir(tmp_path)
    page = (ROOT / 'docs/operating_points.md').read_text(encoding='utf-8')
    (line,) = re.findall(r'^python (docs/examples/bccd_to_coco.py .*)$', page, flags=re.MULTILINE)
    script, *words = line.split()
    subprocess.run([sys.executable, ROOT / script, *words], check=True)
    cfg = load_config(str(ROOT / 'docs/examples/blood_cells.py'))
    check_config(cfg, ('train', 'val'))
    (source,) = sources(cfg, 'val')
    assert [str(f) for f in source.findings] == []
    rows = json.loads(Path('data/bccd/annotations/instances_val.json').read_text())['annotations']
    assert [row['category_id'] for row in rows] == [3, 1, 2]
    assert rows[0]['bbox'] == [0, 10, 30, 10]


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
