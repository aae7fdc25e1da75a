"""`vitbackbones report`: the folder that it writes, and what it says of bad input."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_predictions import (  # noqa: F401 (fixtures)
    CLASSES,
    METRICS,
    guess,
    here,
    place,
    segmentor,
    sentences,
)
from vitbackbones.cli.main import main

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
    worse = [row for row in rows if row['image_id'] != first]
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
    names = [row['image'] for row in against['images']['most_worse']]
    assert best in names
    page = (tmp_path / 'out/report.html').read_text()
    assert 'Against an earlier report' in page
    assert 'Images that got worse' in page


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


def test_classes_in_another_order_than_the_checkpoint_has_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load('segmentor.pth', weights_only=True)
    meta = content['meta']['dataset_meta']
    meta['classes'] = meta['classes'][::-1]
    torch.save(content, tmp_path / 'other.pth')
    words = ['segmentor.py', str(tmp_path / 'other.pth')]
    assert 'in the order of the checkpoint' in refused(words, capsys, tmp_path / 'out')


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


def test_predictions_that_are_there_are_not_made_again(
    detected: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (detected / 'predictions.json').stat().st_mtime_ns
    words = ['report', 'guess.py', 'guess.pth', '--out-dir', str(detected)]
    assert main([*words, '--cfg-options', f'work_dir={detected.parent / "run"}']) == 2
    assert 'predictions.json already: --predictions' in capsys.readouterr().err
    assert (detected / 'predictions.json').stat().st_mtime_ns == before
