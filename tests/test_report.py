"""`vitbackbones report`: the folder that it writes, and what it says of bad input."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import DATASETS, TRANSFORMS
from mmseg.datasets import BaseSegDataset
from PIL import Image
from pycocotools import mask as coco_mask

from tests.onnx_files import write_colours
from tests.test_predictions import (  # noqa: F401 (fixtures)
    CLASSES,
    METRICS,
    guess,
    here,
    place,
    save_weights,
    segmentor,
    sentences,
)
from vitbackbones.cli.main import main
from vitbackbones.reporting.thresholds import exact
from vitbackbones.reporting.writing import PLOTS, WORST

FILES = ['per_class.csv', 'per_image.csv', 'plots', 'report.html', 'report.json']


@pytest.fixture(scope='module')
def detected(guess: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The report of a detector with masks, its predictions among it."""
    out = tmp_path_factory.mktemp('reports') / 'detector'
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(guess)
        words = ['report', 'guess.py', 'guess.pth', '--out-dir', str(out)]
        assert main([*words, '--cfg-options', f'work_dir={out.parent / "run"}']) == 0
    return out


@pytest.fixture(scope='module')
def segmented(segmentor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The report of a segmentor."""
    out = tmp_path_factory.mktemp('reports') / 'segmentor'
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(segmentor)
        words = ['report', 'segmentor.py', 'segmentor.pth', '--out-dir', str(out)]
        assert main([*words, '--cfg-options', f'work_dir={out.parent / "run"}']) == 0
    return out


@pytest.fixture
def folder(guess: Path, segmentor: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.chdir(guess)
    return guess


def figures_of(out: Path) -> dict[str, Any]:
    """report.json, in which everything is JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads((out / 'report.json').read_text(), parse_constant=refuse)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def reported(words: list[str], out: Path, status: int = 0) -> dict[str, Any]:
    """The figures of a report that is made."""
    assert main(['report', *words, '--out-dir', str(out)]) == status
    return figures_of(out)


def refused(words: list[str], capsys: pytest.CaptureFixture[str], out: Path) -> str:
    """The one sentence of a report that is refused; nothing is written."""
    capsys.readouterr()
    assert main(['report', *words, '--out-dir', str(out)]) == 2
    (sentence,) = sentences(capsys.readouterr().err)
    assert not out.exists()
    return sentence


def test_the_report_of_a_detector_has_the_figures_of_its_test(detected: Path) -> None:
    assert sorted(path.name for path in detected.iterdir()) == sorted([*FILES, 'predictions.json'])
    figures = figures_of(detected)
    for kind, name in (('bbox', 'boxes'), ('segm', 'masks')):
        ours = figures['average_precision'][name]
        assert round(ours['ap'], 3) == METRICS[-1][f'coco/{kind}_mAP']
        assert round(ours['ap75'], 3) == METRICS[-1][f'coco/{kind}_mAP_75']
    assert figures['errors']['counts']['class'] > 0
    assert [row['name'] for row in figures['classes']] == list(CLASSES)


def test_the_tables_have_what_the_figures_have(detected: Path) -> None:
    figures = figures_of(detected)
    for name in ('per_class', 'per_image'):
        key = {'per_class': 'classes'}.get(name, name)
        rows = rows_of(detected / f'{name}.csv')
        assert len(rows) == len(figures[key])
        for row, want in zip(rows, figures[key], strict=True):
            for column, value in row.items():
                expected = '' if want[column] is None else str(want[column])
                assert value == expected
    assert {'image', 'objects', 'missed', 'f1'} <= {*rows[0]}


def test_the_page_needs_no_other_file(detected: Path, segmented: Path) -> None:
    for out, words in ((detected, ('Kinds of error', 'duplicate')), (segmented, ('near borders',))):
        page = (out / 'report.html').read_text()
        assert all(word in page for word in (*words, 'The worst images', *CLASSES))
        assert '://' not in page
        links = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page)
        assert len(links) > 3
        assert {link.partition(':')[0] for link in links} == {'data'}
        assert not re.search(r'<script|@import|url\(', page)
        plots = list((out / 'plots').iterdir())
        assert {path.suffix for path in plots} == {'.png'}
        assert all(min(Image.open(path).size) > 100 for path in plots)
        assert out / 'plots/worst_images.png' in plots


def test_predictions_of_a_dump_give_the_same_report(
    detected: Path, folder: Path, tmp_path: Path
) -> None:
    words = ['report', 'guess.py', '--predictions', str(detected / 'predictions.json')]
    assert main([*words, '--out-dir', str(tmp_path / 'out'), '--worst', '0']) == 0
    assert figures_of(tmp_path / 'out') == figures_of(detected)
    assert not (tmp_path / 'out/plots/worst_images.png').exists()
    assert 'The worst images' not in (tmp_path / 'out/report.html').read_text()


def test_the_report_of_a_segmentor_has_the_figures_of_its_test(
    segmented: Path, folder: Path, tmp_path: Path
) -> None:
    figures = figures_of(segmented)
    names = [f'{name}.png' for name in ('a/0', 'a/1', 'b/0')]
    found = np.stack([Image.open(segmented / 'predictions' / name) for name in names])
    truth = np.stack([Image.open(folder / 'maps/labels' / name) for name in names])
    assert figures['accuracy'] == pytest.approx((found == truth).mean())
    assert [row['image'] for row in figures['per_image']] == names
    for label, row in enumerate(figures['classes']):
        both = ((found == label) & (truth == label)).sum()
        either = ((found == label) | (truth == label)).sum()
        assert row['iou'] == pytest.approx(both / either if either else None)
    words = ['report', 'segmentor.py', '--predictions', str(segmented / 'predictions')]
    assert main([*words, '--out-dir', str(tmp_path / 'out')]) == 0
    assert figures_of(tmp_path / 'out') == figures


def test_the_mean_iou_is_that_of_the_configs_metric(folder: Path, tmp_path: Path) -> None:
    metric = "test_evaluator=dict(type='mmseg.IoUMetric', ignore_index=1, nan_to_num=0)"
    classes = "metainfo=dict(_delete_=True, classes=('red', 'green', 'blue', 'none'))"
    (tmp_path / 'own.py').write_text(
        f'_base_ = {str(folder / "segmentor.py")!r}\n{metric}\n'
        f'model = dict(decode_head=dict(num_classes=4), auxiliary_head=dict(num_classes=4))\n'
        f'test_dataloader = dict(dataset=dict({classes}))\n'
        "custom_hooks = [dict(type='KeepMetrics')]\n"
    )
    config, weights = tmp_path / 'own.py', tmp_path / 'own.pth'
    save_weights(config, weights, (*CLASSES, 'none'))
    words = [str(config), str(weights), '--cfg-options', f'work_dir={tmp_path / "run"}']
    figures = reported(words, tmp_path / 'out')
    assert figures['ignored_label'] == 1
    assert figures['classes'][1]['pixels'] == 0
    said = [METRICS[-1][name] for name in ('mIoU', 'mAcc', 'aAcc')]
    ours = [100 * figures[name] for name in ('iou', 'class_accuracy', 'accuracy')]
    assert ours == pytest.approx(said, abs=0.006)
    page = (tmp_path / 'out/report.html').read_text()
    assert 'pixels with the label 1 do not count' in page
    assert 'count as 0 in means' in page


def test_truths_are_put_right_as_a_test_has_them(
    detected: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(Path('data/guess.json').read_text())
    for row in content['images']:
        row['id'] = f'image {row["id"]}'
    for row in content['annotations']:
        row['image_id'] = f'image {row["image_id"]}'
        row['category_id'] = str(row['category_id'])
        del row['iscrowd'], row['area']
    del content['annotations'][0]['segmentation']  # its box counts in its place
    # A root, as exports have it, with a name that is there twice.
    content['categories'].insert(0, dict(id=99, name=CLASSES[1]))
    path = tmp_path / 'typed.json'
    path.write_text(json.dumps(content))
    options = [f'test_dataloader.dataset.ann_file={path}', f'test_evaluator.ann_file={path}']
    options = ['--cfg-options', *options, f'work_dir={tmp_path / "run"}']
    figures = reported(['guess.py', 'guess.pth', *options], tmp_path / 'out')
    for kind, name in (('bbox', 'boxes'), ('segm', 'masks')):
        ours = figures['average_precision'][name]
        assert round(ours['ap'], 3) == METRICS[-1][f'coco/{kind}_mAP']
    assert figures['objects'] == figures_of(detected)['objects']
    capsys.readouterr()
    words = ['guess.py', '--predictions', str(tmp_path / 'out/predictions.json'), *options]
    assert reported(words, tmp_path / 'again') == figures
    said = capsys.readouterr().err
    assert f'{path}: images have ids such as' not in said  # text will do
    assert "annotations have the category_id '" in said
    assert 'put right before it is compared' in said


def test_a_model_that_predicts_nothing_gets_a_report_that_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'none.json').write_text('[]')
    words = ['report', 'guess.py', '--predictions', str(tmp_path / 'none.json')]
    assert main([*words, '--out-dir', str(tmp_path / 'out')]) == 0
    assert 'the model has predicted nothing' in capsys.readouterr().out
    assert 'has predicted nothing in 5 images' in (tmp_path / 'out/report.html').read_text()
    figures = figures_of(tmp_path / 'out')
    assert figures['threshold']['best'] is None
    assert figures['errors']['counts']['missed'] == figures['objects'] > 0


def test_a_report_says_what_got_better_and_what_worse(
    detected: Path, folder: Path, tmp_path: Path
) -> None:
    rows = json.loads((detected / 'predictions.json').read_text())
    best = max(figures_of(detected)['per_image'], key=lambda row: row['f1'])['image']
    images = json.loads(Path('data/guess.json').read_text())['images']
    first = next(row['id'] for row in images if row['file_name'] == best)
    worse = [
        {**row, 'score': row['score'] / 2}  # each model has a best threshold of its own
        for row in rows
        if row['image_id'] != first
    ]
    (tmp_path / 'worse.json').write_text(json.dumps(worse))
    words = ['report', 'guess.py', '--predictions', str(tmp_path / 'worse.json')]
    words += ['--against', str(detected), '--out-dir', str(tmp_path / 'out')]
    assert main(words) == 0
    figures, before = figures_of(tmp_path / 'out'), figures_of(detected)
    against = figures['against']
    change = (
        figures['average_precision']['masks']['ap'] - before['average_precision']['masks']['ap']
    )
    assert against['all']['difference'] == pytest.approx(change)
    assert change != 0
    for row, now, then in zip(
        against['classes'], figures['classes'], before['classes'], strict=True
    ):
        assert row['difference'] == pytest.approx(now['ap'] - then['ap'])
    used = dict(now=figures['threshold']['used'], before=before['threshold']['used'])
    assert against['threshold'] == used
    names = [row['image'] for row in against['images']['most_worse']]
    assert best in names
    page = (tmp_path / 'out/report.html').read_text()
    assert (
        f'from its own best threshold on: {exact(used["before"])} before, {exact(used["now"])} now.'
    ) in page
    assert 'Against an earlier report' in page
    assert 'Images that got worse' in page


def test_a_model_that_finds_nothing_is_compared_with_one_that_finds_masks(
    detected: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / 'none.json').write_text('[]')
    nothing = ['guess.py', '--predictions', str(tmp_path / 'none.json')]
    something = ['guess.py', '--predictions', str(detected / 'predictions.json'), '--worst', '0']
    ap = figures_of(detected)['average_precision']['masks']['ap']
    figures = reported([*nothing, '--against', str(detected)], tmp_path / 'none')
    assert figures['measured'] == 'masks'
    assert figures['average_precision']['masks']['ap'] == 0
    assert figures['against']['all']['difference'] == -ap
    figures = reported([*something, '--against', str(tmp_path / 'none')], tmp_path / 'out')
    assert figures['against']['all']['difference'] == ap
    # One whose config measures boxes alone.
    boxes = ['--cfg-options', 'test_evaluator.metric=bbox']
    load = 'test_dataloader.dataset.pipeline.1.with_mask=False'
    figures = reported([*nothing, *boxes, load], tmp_path / 'boxes')
    assert figures['measured'] == 'boxes'
    figures = reported([*something, '--against', str(tmp_path / 'boxes')], tmp_path / 'last')
    assert figures['against']['all']['difference'] == ap


def test_figures_are_there_where_a_comparison_is_refused(
    detected: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((detected / 'predictions.json').read_text())
    for row in rows:
        del row['segmentation']
    (tmp_path / 'boxes.json').write_text(json.dumps(rows))
    words = ['report', 'guess.py', '--predictions', str(tmp_path / 'boxes.json')]
    capsys.readouterr()
    assert main([*words, '--against', str(detected), '--out-dir', str(tmp_path / 'out')]) == 2
    (sentence,) = sentences(capsys.readouterr().err)
    assert 'reports on masks, this is of boxes' in sentence
    assert figures_of(tmp_path / 'out')['measured'] == 'boxes'


def test_a_report_is_compared_with_one_of_the_same_task_and_images(
    detected: Path,
    segmented: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ['guess.py', '--predictions', str(detected / 'predictions.json'), '--against']
    assert 'reports on segmentation' in refused([*words, str(segmented)], capsys, tmp_path / 'out')
    assert 'cannot be read' in refused([*words, 'nowhere'], capsys, tmp_path / 'out')
    other = figures_of(detected)
    for row in other['per_image']:
        row['image'] = f'other_{row["image"]}'
    (tmp_path / 'images.json').write_text(json.dumps(other))
    said = refused([*words, str(tmp_path / 'images.json')], capsys, tmp_path / 'out')
    assert 'is of another dataset' in said
    other['classes'][0]['name'] = 'purple'
    (tmp_path / 'classes.json').write_text(json.dumps(other))
    said = refused([*words, str(tmp_path / 'classes.json')], capsys, tmp_path / 'out')
    assert 'has the classes purple, green, blue, the config red, green, blue' in said


def test_an_earlier_report_that_is_broken_is_refused(
    detected: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (detected / 'report.json').read_text()
    no_score, no_name, later, other = (json.loads(whole) for _ in range(4))
    del no_score['per_image'][3]['f1']
    no_name['classes'][1] = 'green'
    later['format'] = 2
    other['task'] = ['detection']
    odd = {**json.loads(whole), 'threshold': dict(used='high')}
    words = ['guess.py', '--predictions', str(detected / 'predictions.json'), '--against']
    for content, said in (
        (whole[: len(whole) // 2], 'is no JSON, or not all of it'),
        (json.dumps(no_score), 'per_image[3] has no f1'),
        (json.dumps(no_name), 'classes[1] has no name'),
        (json.dumps(later), 'has the format 2, this version of vitbackbones compares format 1'),
        (json.dumps(other), "its task is ['detection']"),
        (json.dumps({**no_name, 'classes': []}), 'has the classes , the config'),
        (json.dumps({**json.loads(whole), 'average_precision': 1}), 'no figure of all classes'),
        (json.dumps(odd), 'its threshold is no number'),
        ('[]', 'it holds a list'),
    ):
        (tmp_path / 'report.json').write_text(content)
        assert said in refused([*words, str(tmp_path)], capsys, tmp_path / 'out')


GOOD = dict(image_id=1, category_id=5, bbox=[1, 2, 3, 4], score=0.5)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ([dict(GOOD, image_id=99)], 'images that data/guess.json does not have, such as 99'),
        ([dict(GOOD, category_id=6)], 'categories that are no classes of the config'),
        ([dict(GOOD, bbox=[70, 2, 3, 4])], 'lie outside of their images'),
        ([dict(GOOD, bbox=[1, 2, float('nan'), 4])], 'number 0 is no prediction'),
        ([GOOD, 7], 'number 1 is no prediction'),
        (7, 'holds no predictions'),
        (
            dict(categories=[dict(id=5, name='purple')], annotations=[GOOD]),
            'predicts the classes purple, those of the config are red, green, blue',
        ),
        (
            dict(info=dict(left_out=dict(scores_below=0.5)), annotations=[GOOD]),
            '`infer` has left out scores below 0.5 (--threshold), and AP would be too low',
        ),
        (
            dict(info=dict(left_out=dict(classes=['red', 7])), annotations=[GOOD]),
            '`infer` has left out the classes red, 7 (--classes)',
        ),
        (
            dict(images=[dict(id=1, file_name='other.png')], annotations=[GOOD]),
            'image 1 is other.png there and 0.png in data/guess.json',
        ),
    ],
)
def test_predictions_of_something_else_are_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: Any,
    words: str,
) -> None:
    (tmp_path / 'found.json').write_text(json.dumps(content))
    options = ['guess.py', '--predictions', str(tmp_path / 'found.json')]
    assert words in refused(options, capsys, tmp_path / 'out')


@pytest.mark.parametrize(
    ('mask', 'words'),
    [
        (dict(size=[60, 40], counts='XY2'), 'run lengths for 40 x 60 pixels, the image has 60'),
        (dict(size=[40, 60], counts='0'), 'its run lengths add up to 0 pixels, not 2400'),
        (dict(size=[40, 60], counts='PXY~'), 'are cut off or damaged'),
        (dict(size=[40, 60]), 'run lengths need size and counts'),
        ('mine', 'it is a str, neither polygons nor run lengths'),
        ([[1, 2, float('inf'), 4, 5, 6]], 'no finite numbers'),
    ],
)
def test_masks_that_are_none_of_their_image_are_refused(
    detected: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    mask: Any,
    words: str,
) -> None:
    rows = json.loads((detected / 'predictions.json').read_text())
    rows[4]['segmentation'] = mask
    (tmp_path / 'found.json').write_text(json.dumps(rows))
    options = ['guess.py', '--predictions', str(tmp_path / 'found.json')]
    said = refused(options, capsys, tmp_path / 'out')
    assert 'found.json: prediction number 4 has a segmentation that is no mask' in said
    assert words in said


def test_masks_may_be_polygons_or_plain_run_lengths(
    detected: Path, folder: Path, tmp_path: Path
) -> None:
    rows = json.loads((detected / 'predictions.json').read_text()) * 30
    figures = []
    shape = [3.0, 4, 20, 4, 20, 30, 3, 30]
    (packed,) = coco_mask.frPyObjects([shape], 40, 60)
    bits = coco_mask.decode(packed).T.ravel()
    bounds = np.flatnonzero(np.diff(bits, prepend=0, append=-1))
    plain = np.diff(bounds, prepend=0).tolist()
    for mask in (
        dict(size=[40, 60], counts=packed['counts'].decode()),
        [shape],
        dict(size=[40, 60], counts=plain),
    ):
        rows[4]['segmentation'] = mask
        (tmp_path / 'found.json').write_text(json.dumps(rows))
        words = ['guess.py', '--predictions', str(tmp_path / 'found.json'), '--worst', '0']
        figures.append(reported(words, tmp_path / f'out{len(figures)}'))
    assert figures[0] == figures[1] == figures[2]


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        ('missing', 'is not there: the predictions are of another dataset'),
        ('size', 'is of another dataset: it has 9 x 9 pixels'),
        ('class', 'predicts class 3, those of the config are 0 to 2'),
        ('colour', 'is a coloured image'),
    ],
)
def test_label_maps_of_something_else_are_refused(
    segmented: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: str,
    words: str,
) -> None:
    for name in ('a/0.png', 'a/1.png', 'b/0.png'):
        target = tmp_path / 'maps' / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((segmented / 'predictions' / name).read_bytes())
    labels = np.array(Image.open(target))
    target.unlink()
    if spoil != 'missing':
        labels = {
            'size': labels[:9, :9],
            'class': np.full_like(labels, 3),
            'colour': np.stack([labels] * 3, -1),
        }[spoil]
        Image.fromarray(labels).save(target)
    options = ['segmentor.py', '--predictions', str(tmp_path / 'maps')]
    assert words in refused(options, capsys, tmp_path / 'out')


def test_classes_have_one_order_by_the_rule_of_tests(
    segmented: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load('segmentor.pth', weights_only=True)
    meta = content['meta']['dataset_meta']
    meta['classes'] = meta['classes'][::-1]
    torch.save(content, tmp_path / 'other.pth')
    words = ['segmentor.py', str(tmp_path / 'other.pth')]
    said = refused(words, capsys, tmp_path / 'out')
    assert 'BaseSegDataset cannot be told to take them by name' in said
    # One that can be told is told, for a checkpoint and for predictions that say their classes.
    words[0] = str(tmp_path / 'named.py')
    Path(words[0]).write_text(
        f'_base_ = {str(folder / "segmentor.py")!r}\n'
        "test_dataloader = dict(dataset=dict(type='Named', metainfo=dict(_delete_=True)))\n"
    )
    options = ['--cfg-options', f'work_dir={tmp_path / "run"}']
    figures = reported([*words, *options], tmp_path / 'out')
    assert [row['name'] for row in figures['classes']] == [*CLASSES[::-1]]
    predictions = ['--predictions', str(tmp_path / 'out/predictions')]
    assert reported([words[0], *predictions], tmp_path / 'again') == figures
    # Labels of truths have followed: the checkpoint says blue for each label that was red.
    before = np.array(figures_of(segmented)['confusion']['matrix'])
    assert (np.array(figures['confusion']['matrix']) == before[::-1]).all()


@DATASETS.register_module()
class Named(BaseSegDataset):
    """Label maps of classes that the dataset itself names."""

    METAINFO: ClassVar = dict(classes=CLASSES, palette=[[9, 0, 0], [0, 9, 0], [0, 0, 9]])


def test_what_a_report_is_of_must_be_said_once(
    detected: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = ['--predictions', str(detected / 'predictions.json')]
    out = tmp_path / 'out'
    assert 'give one of them' in refused(['guess.py'], capsys, out)
    assert 'give one of them' in refused(['guess.py', 'guess.pth', *predictions], capsys, out)
    assert 'there is no --predictions no.json' in refused(
        ['guess.py', '--predictions', 'no.json'], capsys, out
    )
    assert '--worst -1' in refused(['guess.py', *predictions, '--worst', '-1'], capsys, out)


COCO = """dict(type='CocoDataset', ann_file='data/guess.json', metainfo=dict(classes=('red',)))"""
MAPS = """dict(type='mmseg.BaseSegDataset', data_root='maps', metainfo=dict(classes=('a',)))"""


@pytest.mark.parametrize(
    ('dataset', 'words'),
    [
        ("dict(type='VOCDataset', ann_file='a.txt')", 'label maps, the test set is a VOCDataset'),
        (f"dict(type='ConcatDataset', datasets=[{COCO}, {COCO}])", 'of the config joins 2'),
        (f"dict(type='ConcatDataset', datasets=[{COCO}, {MAPS}])", 'COCO with label maps: report'),
        (None, 'test_dataloader'),
    ],
)
def test_test_sets_of_which_there_is_no_report_are_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    dataset: str | None,
    words: str,
) -> None:
    loader = dataset and f'dict(dataset=dict(_delete_=True, **{dataset}))'
    (tmp_path / 'own.py').write_text(
        f'_base_ = {str(folder / "guess.py")!r}\ntest_dataloader = {loader}\n'
    )
    (tmp_path / 'none.json').write_text('[]')
    options = [str(tmp_path / 'own.py'), '--predictions', str(tmp_path / 'none.json')]
    assert words in refused(options, capsys, tmp_path / 'out')


def test_an_exported_file_is_reported_on(folder: Path, tmp_path: Path) -> None:
    path = write_colours(tmp_path / 'net.onnx')
    options = ['--cfg-options', f'work_dir={tmp_path / "run"}']
    options += ['test_dataloader.dataset.ann_file=guess.json']
    options += ['test_evaluator.ann_file=data/guess.json']
    figures = reported(['detector.py', str(path), *options], tmp_path / 'out')
    assert [row['name'] for row in figures['classes']] == [*CLASSES]
    assert figures['predictions'] == 3 * figures['images'] == 15
    words = ['detector.py', '--predictions', str(tmp_path / 'out/predictions.json'), *options]
    assert reported(words, tmp_path / 'again') == figures


def test_predictions_that_are_there_are_not_made_again(
    detected: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (detected / 'predictions.json').stat().st_mtime_ns
    words = ['report', 'guess.py', 'guess.pth', '--out-dir', str(detected)]
    assert main([*words, '--cfg-options', f'work_dir={detected.parent / "run"}']) == 2
    assert 'predictions.json already: --predictions' in capsys.readouterr().err
    assert (detected / 'predictions.json').stat().st_mtime_ns == before


def test_a_folder_holds_one_report_alone(
    detected: Path,
    segmented: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / 'out'
    words = ['guess.py', '--predictions', str(detected / 'predictions.json'), '--worst', '0']
    reported(words, out)
    assert {path.stem for path in (out / 'plots').iterdir()} == {*PLOTS} - {WORST, 'iou_by_class'}
    (out / 'plots/mine.png').touch()
    words = ['segmentor.py', '--predictions', str(segmented / 'predictions'), '--worst', '0']
    reported(words, out)
    assert {path.stem for path in (out / 'plots').iterdir()} == {
        *('confusion', 'iou_by_class', 'mine')
    }
    # A page of before is not beside figures of now, even if no page of now comes.
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(['report', *words, '--out-dir', str(out)])
    assert sorted(path.name for path in out.rglob('*.*')) == [
        *('mine.png', 'per_class.csv', 'per_image.csv', 'report.json')
    ]
    # Nor are predictions of another model beside a report.
    capsys.readouterr()
    assert main(['report', *words, '--out-dir', str(detected)]) == 2
    said = capsys.readouterr().err
    assert f'--out-dir {detected} has predictions.json already' in said
    assert 'choose another folder' in said
    assert (detected / 'report.html').exists()


# ------------------------------------------------------------------------------ label maps


def label_maps(segmented: Path, target: Path) -> list[Path]:
    """A copy of what was predicted."""
    shutil.copytree(segmented / 'predictions', target)
    return sorted(target.rglob('*.png'))


def test_label_maps_say_which_classes_they_have(
    segmented: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = label_maps(segmented, tmp_path / 'maps')
    words = ['segmentor.py', '--predictions', str(tmp_path / 'maps'), '--cfg-options']
    classes = 'test_dataloader.dataset.metainfo.classes'
    said = refused([*words, f"{classes}=['green','red','blue']"], capsys, tmp_path / 'out')
    assert 'the classes (green, red, blue), ' in said
    assert 'a/0.png, (red, green, blue), and BaseSegDataset cannot be told' in said
    said = refused([*words, f"{classes}=['red','green','teal']"], capsys, tmp_path / 'out')
    assert 'a/0.png predicts the classes (red, green, blue), test_dataloader has (red' in said
    capsys.readouterr()
    figures = reported(words[:-1], tmp_path / 'said')
    assert 'do not say' not in capsys.readouterr().err
    for path in maps[:2]:
        Image.fromarray(np.array(Image.open(path))).save(path)
    assert reported(words[:-1], tmp_path / 'silent') == figures
    assert (
        f'2 of 3 label maps in {tmp_path / "maps"} do not say which classes they have: their '
        'labels are taken for those of the config, 0 red, 1 green, 2 blue'
    ) in capsys.readouterr().err


def test_labels_beyond_the_classes_are_named_where_nothing_is_predicted(
    segmented: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree('maps', tmp_path / 'maps')
    path = tmp_path / 'maps/labels/b/0.png'
    labels = np.array(Image.open(path))
    labels[3, 4:9] = 7
    Image.fromarray(labels).save(path)
    words = ['segmentor.py', '--predictions', str(segmented / 'predictions'), '--cfg-options']
    words += [f'test_dataloader.dataset.data_root={tmp_path / "maps"}/']
    said = refused(words, capsys, tmp_path / 'out')
    assert f'{path}: labels 7' in said
    assert 'classes are 0 to 2' in said


@TRANSFORMS.register_module()
class TurnLabels(BaseTransform):
    """A step of a user's that makes other labels of those in the files."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results['gt_seg_map'] = (results['gt_seg_map'] + 1) % 3
        return results


def test_labels_are_those_that_the_test_pipeline_makes(
    segmented: Path, folder: Path, tmp_path: Path
) -> None:
    steps = ('LoadImageFromFile', 'mmseg.LoadAnnotations', 'TurnLabels', 'PackSegInputs')
    pipeline = [dict(type=step) for step in steps]
    (tmp_path / 'turned.py').write_text(
        f'_base_ = {str(folder / "segmentor.py")!r}\n'
        f'test_dataloader = dict(dataset=dict(pipeline={pipeline}))\n'
    )
    words = [str(tmp_path / 'turned.py'), '--predictions', str(segmented / 'predictions')]
    figures = reported(words, tmp_path / 'out')
    matrix = np.array(figures_of(segmented)['confusion']['matrix'])
    assert (np.array(figures['confusion']['matrix']) == np.roll(matrix, 1, axis=0)).all()


def test_predicting_that_breaks_off_leaves_no_half_of_a_folder(
    segmented: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree('maps', tmp_path / 'maps')
    path = tmp_path / 'maps/images/b/0.png'
    whole = path.read_bytes()
    path.write_bytes(whole[:99])
    words = ['segmentor.py', 'segmentor.pth', '--cfg-options', f'work_dir={tmp_path / "run"}']
    words += [f'test_dataloader.dataset.data_root={tmp_path / "maps"}/']
    assert main(['report', *words, '--out-dir', str(tmp_path / 'out')]) == 2
    assert 'b/0.png' in capsys.readouterr().err
    assert not (tmp_path / 'out/predictions').exists()
    path.write_bytes(whole)
    assert reported(words, tmp_path / 'out') == figures_of(segmented)
    assert not (tmp_path / 'out/predictions.part').exists()


# -------------------------------------------------------------------------------- pictures


def test_images_are_drawn_upright(detected: Path, folder: Path, tmp_path: Path) -> None:
    images = {name: tmp_path / name / 'guess' for name in ('plain', 'turned')}
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:16, :24] = 255  # a corner
    turned = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter to the right, and it is as it was
    for each in images.values():
        each.mkdir(parents=True)
    for i in range(5):
        Image.fromarray(pixels).save(images['plain'] / f'{i}.png', 'JPEG', quality=99)
        turned.save(images['turned'] / f'{i}.png', 'JPEG', quality=99, exif=exif)
    sheets = []
    for name in images:
        words = ['guess.py', '--predictions', str(detected / 'predictions.json'), '--cfg-options']
        words += [f'test_dataloader.dataset.data_prefix.img={tmp_path / name}']
        reported(words, tmp_path / f'{name}_report')
        sheet = Image.open(tmp_path / f'{name}_report/plots/worst_images.png')
        sheets.append(np.asarray(sheet).astype(int))
    assert sheets[0].shape == sheets[1].shape
    assert abs(sheets[0] - sheets[1]).mean() < 1


def test_images_that_cannot_be_shown_are_named_and_all_else_is_there(
    detected: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree('data/images', tmp_path / 'images')
    worst = sorted(figures_of(detected)['per_image'], key=lambda row: -row['faults'])
    damaged, other = [row['image'] for row in worst[:2]]
    assert worst[2]['faults']  # which is shown
    (tmp_path / 'images' / damaged).write_bytes(b'\x89PNG and nothing else')
    Image.new('RGB', (70, 40)).save(tmp_path / 'images' / other)
    words = ['guess.py', '--predictions', str(detected / 'predictions.json'), '--cfg-options']
    words += [f'test_dataloader.dataset.data_prefix.img={tmp_path / "images"}']
    assert reported(words, tmp_path / 'out', status=1) == figures_of(detected)
    said, page = capsys.readouterr().err, (tmp_path / 'out/report.html').read_text()
    for name in (damaged, other):
        assert f'{name} is one of the worst images and cannot be shown' in said
        assert f'{name} is one of them and cannot be shown' in page
    assert 'has 70 x 40 pixels, 60 x 40 by its annotations' in said
    assert (tmp_path / 'out/plots/worst_images.png').is_file()
    (tmp_path / 'images' / damaged).unlink()
    assert reported(words, tmp_path / 'out', status=1)
    assert 'cannot be shown: [Errno 2]' in capsys.readouterr().err
    # Without pictures nobody needs the images, and the sheet of before is gone.
    assert reported([*words[:3], '--worst', '0', *words[3:]], tmp_path / 'out')
    assert not (tmp_path / 'out/plots/worst_images.png').exists()


def test_figures_are_there_before_anything_is_drawn(
    detected: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', lambda *_, **__: 1 / 0)
    words = ['report', 'guess.py', '--predictions', str(detected / 'predictions.json')]
    with pytest.raises(ZeroDivisionError):
        main([*words, '--out-dir', str(tmp_path / 'out')])
    assert figures_of(tmp_path / 'out') == figures_of(detected)
    assert rows_of(tmp_path / 'out/per_class.csv')
