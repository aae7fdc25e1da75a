"""From a folder of one's own to a training, by the commands that a user types."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from vitbackbones.cli.main import main
from vitbackbones.launch.checks import check_config
from vitbackbones.launch.loading import load_config
from vitbackbones.launch.training import train

from . import own_data

SIDE = 64
CLASSES = ('block', 'disc')
FORMATS = ('yolo', 'voc', 'coco', 'index', 'colours')
WAYS = {
    'yolo': ('--backbone', 'sepvit_lite'),
    'voc': ('--backbone', 'gcvit_xxtiny'),
    'coco': ('--backbone', 'casvit_xs'),
    'index': ('--backbone', 'casvit_xs'),
    'colours': ('--backbone', 'shvit_s1', '--head', 'semantic_fpn'),
}


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same small data in each format."""
    root = tmp_path_factory.mktemp('own')
    for split, images in (('train', 6), ('val', 3)):
        generate(root / 'source', split, images)
    for form in FORMATS:
        own_data.FORMATS[form](root / 'source', root / form)
    return root


def generate(root: Path, split: str, images: int) -> None:
    """Two squares on noise in each image."""
    rng = np.random.default_rng(len(split))
    content: dict[str, Any] = dict(images=[], annotations=[])
    content['categories'] = [dict(id=i, name=name) for i, name in enumerate(CLASSES, start=1)]
    for folder in (root / split, root / 'labels' / split):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        pixels = rng.integers(0, 80, (SIDE, SIDE, 3), np.uint8)
        labels = np.zeros((SIDE, SIDE), np.uint8)
        for category in (1, 2):
            x, y, side = 30 * category - 28, int(rng.integers(2, 30)), int(rng.integers(16, 28))
            pixels[y : y + side, x : x + side, category] += 150
            labels[y : y + side, x : x + side] = category
            corners = [[x, y, x + side, y, x + side, y + side, x, y + side - 3]]
            content['annotations'].append(
                dict(
                    id=len(content['annotations']) + 1,
                    image_id=number,
                    category_id=category,
                    bbox=[x, y, side, side],
                    area=side * side,
                    iscrowd=0,
                    segmentation=corners,
                )
            )
        Image.fromarray(pixels).save(root / split / f'{number}.png')
        Image.fromarray(labels).save(root / 'labels' / split / f'{number}.png')
        content['images'].append(
            dict(id=number, file_name=f'{number}.png', width=SIDE, height=SIDE)
        )
    own_data.write(root / 'annotations' / f'instances_{split}.json', [json.dumps(content)])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to write to."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new(*words: object) -> int:
    return main(['new', *map(str, words)])


@pytest.mark.parametrize('form', FORMATS)
def test_a_folder_of_any_format_is_one_command(
    folders: Path, here: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ('--data', folders / form, *WAYS[form], '--no-check', '--max-scale', '64x64')
    assert new(*words, '--batch-size', '2', '--weights', 'none', '-o', 'my.py') == 0
    said = capsys.readouterr().out
    assert 'next: vitbackbones train my.py' in said
    for name in ('disc', 'block') if form not in ('index', 'colours') else ('class',):
        assert name in said  # the table of what there is to learn
    classes = CLASSES
    if form in ('index', 'colours'):
        classes = tuple(f'class{"_" if form == "index" else ""}{i}' for i in range(3))
    cfg = load_config('my.py')
    assert cfg.train_dataloader.dataset.metainfo.classes == classes
    assert cfg.get('tta_pipeline') is None  # it would have the scales of other data
    check_config(cfg, ('train', 'val', 'test'))


@pytest.mark.parametrize('form', ['yolo', 'coco', 'index'])  # boxes, masks and label maps
def test_what_was_written_trains(folders: Path, here: Path, form: str) -> None:
    words = ('--data', folders / form, *WAYS[form], '--no-check', '--max-scale', '64x64')
    assert new(*words, '--batch-size', '3', '--weights', 'none', '-o', 'my.py') == 0
    length = 'max_iters' if form == 'index' else 'max_epochs'
    cfg = load_config('my.py', {f'train_cfg.{length}': 1, 'train_cfg.val_interval': 1})
    cfg.work_dir, cfg.launcher = 'trained', 'none'
    train(cfg)
    log = next(Path('trained').glob('*/*.log')).read_text()
    assert 'val_loss: ' in log
    # The best one, or the last one where an epoch was not enough to find anything.
    assert re.search(r'`vitbackbones test my.py trained/(best|epoch|iter)_.*\.pth`', log)


def test_a_known_detector_learns_from_the_folder(folders: Path, here: Path) -> None:
    start = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    words = ('--from', start, '--data', folders / 'yolo', '--backbone', 'casvit_xs')
    assert new(*words, '--no-check', '--weights', 'none', '-o', 'my.py') == 0
    cfg = Config.fromfile('my.py')
    assert cfg.model.type == 'FasterRCNN'
    assert cfg.model.roi_head.bbox_head.num_classes == 2
    assert cfg.train_dataloader.dataset.metainfo.classes == CLASSES
    resize = next(s for s in cfg.val_dataloader.dataset.pipeline if s.type == 'Resize')
    assert max(resize.scale) <= 256  # of 1333


def test_the_same_folder_gives_the_same_file(folders: Path, here: Path) -> None:
    words = ('--data', folders / 'coco', '--backbone', 'sepvit_lite', '--no-check')
    written = []
    for _ in range(2):
        assert new(*words, '--head', 'retinanet', '-o', 'my.py', '--force') == 0
        files = [Path('my.py'), *sorted(Path('my_data').iterdir())]
        written.append([path.read_bytes() for path in files])
    assert written[0] == written[1]
    assert len(written[0]) > 1


def test_a_second_config_in_the_folder_of_the_data(
    folders: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_data.FORMATS['yolo'](folders / 'source', here / 'data')
    monkeypatch.chdir(here / 'data')
    Path('work_dirs/my').mkdir(parents=True)
    Path('work_dirs/my/scalars.json').write_text('{"images": [], "annotations": []}')
    words = ('--data', '.', '--backbone', 'sepvit_lite', '--weights', 'none', '--no-check')
    assert new(*words, '-o', 'one.py') == 0
    assert new(*words, '-o', 'two.py') == 0
    assert Path('one.py').read_text() == Path('two.py').read_text().replace('two_data', 'one_data')


def test_what_fails_leaves_the_data_of_a_config_as_they_were(folders: Path, here: Path) -> None:
    words = ('--data', folders / 'coco', '--backbone', 'sepvit_lite', '--no-check', '-o', 'my.py')
    assert new(*words, '--weights', 'none') == 0
    before = {path: path.read_bytes() for path in Path('my_data').iterdir()}
    assert new(*words, '--force', '--seed', '3', '--weights', 'gone.pth') == 2
    assert {path: path.read_bytes() for path in Path('my_data').iterdir()} == before
    assert sorted(path.name for path in Path().iterdir()) == ['my.py', 'my_data']


def test_what_is_wrong_is_said_of_the_users_files(
    folders: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_data.FORMATS['yolo'](folders / 'source', here / 'data')
    for file in (here / 'data/images').rglob('*.png'):  # smaller than what a training keeps
        Image.open(file).resize((20, 20)).save(file)
    before = sorted(here.iterdir())
    words = ('--data', 'data', '--backbone', 'sepvit_lite', '--weights', 'none', '-o', 'my.py')
    assert new(*words) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert 'my_data' not in line
    assert 'train in data' in line
    assert sorted(here.iterdir()) == before


def test_a_folder_of_yolo_without_labels(
    folders: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_data.FORMATS['yolo'](folders / 'source', here / 'data')
    for file in (here / 'data/labels').rglob('*.txt'):
        file.unlink()
    assert new('--data', 'data', '--backbone', 'sepvit_lite', '-o', 'my.py') == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert 'none of 9 images has labels' in line


@pytest.mark.parametrize(
    ('words', 'named'),
    [
        (['--data', 'yolo', '--head', 'mask_rcnn'], 'masks'),
        (['--data', 'index', '--head', 'retinanet'], 'holds label maps'),
        (['--data', 'yolo', '--head', 'yolox'], 'retinanet'),
        (['--data', 'yolo', '--head', 'retinanet', '--from', 'mmdet::x.py'], '--head'),
        (['--data', 'yolo', '--max-scale', '640'], 'WIDTHxHEIGHT'),
        (['--data', 'yolo', '--max-scale', '640x8'], 'WIDTHxHEIGHT'),
        (['--data', 'yolo', '--batch-size', '0'], '--batch-size 0'),
        (['--data', 'yolo', '--device', 'tpu'], 'tpu'),
        (['--data', 'yolo', '--memory', '-1'], '--memory'),
        (['--data', 'none'], 'none'),
        (['--head', 'retinanet'], '--head is of use with --data'),
        ([], '--data'),
        (
            ['--data', 'index', '--from', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'],
            'label maps',
        ),
    ],
    ids=' '.join,
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    folders: Path,
    here: Path,
    words: list[str],
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(folders / word) if word in (*FORMATS, 'none') else word for word in words]
    assert new(*words, '--backbone', 'sepvit_lite', '-o', 'my.py') == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert named in line
    assert list(here.iterdir()) == []


def test_what_fails_late_leaves_nothing_behind(
    folders: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ('--data', folders / 'yolo', '--backbone', 'sepvit_lite', '-o', 'my.py')
    assert new(*words, '--weights', 'none.pth') == 2
    assert 'none.pth' in capsys.readouterr().err
    assert list(here.iterdir()) == []
