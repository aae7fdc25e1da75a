"""Inputs, names and formats of `infer`, and the way of its results back into `new --data`."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.finder import CLASSES, SCORES, Finder, Thing, paint, save, write_finder
from tests.onnx_files import write_colours
from vitbackbones.cli.main import main
from vitbackbones.errors import UserError
from vitbackbones.formats.folder import read_folder
from vitbackbones.formats.own_data import OwnData
from vitbackbones.inference.inputs import find_inputs
from vitbackbones.inference.rows import Rows

#: By name: several objects, none, and two in folders of their own with one name.
SCENES: dict[str, list[Thing]] = {
    'a/0.png': [(0, (5, 7, 25, 30)), (1, (40, 10, 70, 31)), (2, (50, 40, 60, 60))],
    'b/0.png': [(1, (0, 0, 33, 21)), (0, (60, 30, 96, 64))],
    'b/images/deep.png': [(0, (10, 10, 20, 50)), (0, (30, 12, 44, 20))],
    'nothing.png': [],
    **{f'more/{i}.png': [(i % 2, (4 + i, 6, 30 + i, 40))] for i in range(8)},
}


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Words of a command: detectors of boxes and masks, and a segmentor."""
    folder = tmp_path_factory.mktemp('models')
    return dict(
        boxes=write_finder(folder),
        masks=write_finder(folder, masks=True),
        labels=[str(write_colours(folder / 'labels.onnx', task='labels'))],
    )


@pytest.fixture(scope='module')
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('scenes')
    for name, things in SCENES.items():
        save(folder / name, paint(things))
    return folder


@pytest.fixture
def infer(
    models: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run the command into ``tmp_path/out``; what it says."""

    def run(model: str, *words: Any, status: int = 0) -> str:
        given = [*models[model], *map(str, words), '--out-dir', str(tmp_path / 'out')]
        capsys.readouterr()
        assert main(['infer', *given, '--device', 'cpu']) == status
        said = capsys.readouterr()
        if status == 2:  # loggers of earlier tests may still write to streams that are closed
            ours = [line for line in said.err.splitlines() if line.startswith('vitbackbones ')]
            return said.out + ''.join(f'{line}\n' for line in ours)
        return said.out + said.err

    return run


def found_in(out: Path) -> dict[str, Any]:
    return json.loads((out / 'predictions.json').read_text())


def rows_of(out: Path) -> list[list[str]]:
    with (out / 'predictions.csv').open(encoding='utf-8', newline='') as file:
        return [*csv.reader(file)]


# ----------------------------------------------------------------------------------- inputs


def names(words: list[Any], out: Path | str = 'out') -> list[str]:
    return [str(each.name) for each in find_inputs(words, Path(out))]


def test_results_are_named_below_the_folder_that_was_named(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = ['nothing.png', 'a/0.png', 'b/0.png', 'b/images/deep.png']
    everything += [f'more/{i}.png' for i in range(8)]
    assert sorted(names([scenes])) == sorted(everything)
    assert names([scenes / 'b/images/deep.png', scenes / 'nothing.png']) == [
        'deep.png',
        everything[0],
    ]
    assert sorted(names([f'{scenes}/**/*.png'])) == sorted(everything)
    assert names([f'{scenes}/[ab]/*.png']) == ['a/0.png', 'b/0.png']
    assert names([f'{scenes}/b*']) == ['b/0.png', 'b/images/deep.png']  # folders that it fits
    assert names([scenes / 'a', f'{scenes}/a/*']) == ['0.png']  # each file once
    monkeypatch.chdir(scenes)
    assert names(['b']) == ['0.png', 'images/deep.png']
    assert names(['*.png']) == ['nothing.png']


def test_two_files_of_one_name_are_named_from_the_folder_that_they_share(scenes: Path) -> None:
    assert names([scenes / 'a/0.png', scenes / 'b/0.png']) == ['a/0.png', 'b/0.png']
    assert names([scenes / 'a', scenes / 'b']) == ['a/0.png', 'b/0.png', 'b/images/deep.png']


def test_hidden_files_other_files_and_earlier_results_are_no_images(tmp_path: Path) -> None:
    for name in ('a.JPG', '.b.jpg', '.c/d.jpg', 'notes.txt', 'out/a_prediction.jpg', 'e/f.tif'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'e/around').symlink_to(tmp_path)
    for word in (tmp_path, f'{tmp_path}/**', f'{tmp_path}/**/*.[jJt]*'):
        assert names([word], tmp_path / 'out') == ['a.JPG', 'e/f.tif']
    assert names([f'{tmp_path}/e/*.tif'], tmp_path) == ['f.tif']  # below the results, not in them


def test_a_photo_and_a_video_of_one_name_have_different_results(tmp_path: Path) -> None:
    for name in ('c.mp4', 'c.png', 'd/c.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names([tmp_path]) == ['c.mp4', 'c.png', 'd/c.png']


def test_images_may_be_named_after_options(
    models: dict[str, list[str]], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(scenes / name) for name in ('nothing.png', 'a/0.png')]
    words = [*models['boxes'], '--out-dir', str(tmp_path / 'out'), images[0], '--device', 'cpu']
    assert main(['infer', *words, images[1]]) == 0
    assert len(found_in(tmp_path / 'out')['images']) == 2
    with pytest.raises(SystemExit):
        main(['infer', *words, '--treshold', '0.5'])
    assert '--treshold 0.5' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['nowhere.png'], 'there is no image nowhere.png'),
        (['empty'], 'empty holds no image and no video'),
        (['*.bmp'], 'no image and no video is called *.bmp'),
        (['out'], '--out-dir out holds the images themselves: name another folder'),
        (['a.png', 'a.jpg'], 'a.png and a.jpg would write to the same result'),
        (['c.mp4', 'c_000012.png'], 'c.mp4 and c_000012.png would write to the same result'),
        (['out/*.png'], '--out-dir out holds the images themselves: name another folder'),
    ],
)
def test_what_stands_for_nothing_or_clashes_is_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        'empty/notes.txt',
        'out/a.png',
        'a.png',
        'a.jpg',
        'c.mp4',
        'c_000012.png',
        'c.png',
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    with pytest.raises(UserError) as error:
        find_inputs(words, Path('out'))
    assert str(error.value).startswith(said)


def test_a_folder_is_predicted_and_what_is_no_image_in_it_is_named(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / 'folder'
    shutil.copytree(scenes, folder)
    (folder / 'b/broken.png').write_bytes((scenes / 'b/0.png').read_bytes()[:40])
    said = infer('boxes', folder, status=1)
    assert f'{folder}/b/broken.png: it cannot be read as an image\n' in said
    assert '1 of 13 images failed' in said
    assert f'1/13 {folder}/nothing.png\n' in said
    found = found_in(tmp_path / 'out')
    assert {row['file_name'] for row in found['images']} == {*SCENES}
    assert len({row['id'] for row in found['images']}) == len(SCENES)
    for name in SCENES:
        drawn = tmp_path / 'out' / name.replace('.png', '_prediction.jpg')
        assert Image.open(drawn).size == (96, 64)
    assert not [*(tmp_path / 'out').rglob('broken*')]


def test_a_bar_shows_how_far_it_is_and_how_fast(
    models: dict[str, list[str]], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vitbackbones.inference.images import infer
    from vitbackbones.launch.loading import load_config

    config, checkpoint = models['boxes']
    outcome = infer(load_config(config), checkpoint, [scenes / 'more'], tmp_path / 'o', bar=True)
    assert len(outcome.written) == 8
    last = capsys.readouterr().err.splitlines()[-1]
    assert '8/8' in last
    assert re.search(r'\d/s |\d s each ', last)


# ---------------------------------------------------------------------------------- formats


def test_a_threshold_and_classes_bound_all_that_is_written(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    image, out = scenes / 'a/0.png', tmp_path / 'out'
    infer('boxes', image, '--format', 'coco', 'csv')
    found = found_in(out)
    assert sorted(row['score'] for row in found['annotations']) == pytest.approx(sorted(SCORES))
    assert found['annotations'][0] | dict(score=0, id=0) == dict(
        id=0, image_id=0, category_id=0, bbox=[5, 7, 20, 23], area=460, iscrowd=0, score=0
    )
    assert [row['id'] for row in found['annotations']] == [1, 2, 3]
    head, *rows = rows_of(out)
    assert head == ['file_name', 'class', 'score', 'x', 'y', 'width', 'height']
    assert [row[1] for row in rows] == ['red cell', 'green cell']  # from 0.3 on
    assert [float(value) for value in rows[0][2:]] == pytest.approx([0.9, 5, 7, 20, 23])

    infer('boxes', image, '--format', 'coco', 'csv', '--threshold', '0.7')
    assert [row['category_id'] for row in found_in(out)['annotations']] == [0]
    assert len(rows_of(out)) == 2

    words = ['--format', 'coco', 'csv', '--classes', 'blue cell', 'green cell', '--threshold', '0']
    infer('boxes', image, *words)
    found = found_in(out)
    assert found['categories'] == [dict(id=i, name=CLASSES[i]) for i in (1, 2)]
    assert [row['category_id'] for row in found['annotations']] == [1, 2]
    assert [row[1] for row in rows_of(out)[1:]] == ['green cell', 'blue cell']


def test_what_is_drawn_keeps_to_threshold_and_classes(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    def drawn(*words: str) -> np.ndarray:
        infer('boxes', scenes / 'a/0.png', *words)
        return np.asarray(Image.open(tmp_path / 'out/0_prediction.jpg'), int)

    def changed(one: np.ndarray, other: np.ndarray) -> bool:
        return bool((np.abs(one - other) > 30).any())

    nothing = drawn('--threshold', '1')
    assert changed(drawn(), nothing)
    assert changed(drawn('--threshold', '0.1'), drawn())
    assert changed(drawn('--classes', 'red cell'), drawn())
    assert not changed(drawn('--classes', 'blue cell'), nothing)  # it has 0.2


@pytest.mark.parametrize(
    ('model', 'words', 'said'),
    [
        (
            'boxes',
            ['--classes', 'red sell'],
            '--classes red sell: the model has no such class; '
            'close to it: red cell, green cell; its classes are red cell, green cell, blue cell',
        ),
        ('boxes', ['--threshold', '1.5'], '--threshold 1.5 must be a score from 0 to 1'),
        ('boxes', ['--format', 'voc'], '--format voc: unknown, choose from coco, yolo, csv'),
        (
            'labels',
            ['--format', 'yolo'],
            '--format yolo is for detectors, not for a segmentor, '
            'whose label maps are written in any case: choose csv, or leave it out',
        ),
        ('labels', ['--format', 'coco'], '--format coco is for detectors'),
        ('labels', ['--threshold', '0.5'], '--threshold is for scores, and label maps have none'),
    ],
)
def test_what_a_model_cannot_give_is_one_sentence(
    model: str, words: list[str], said: str, scenes: Path, infer: Any, tmp_path: Path
) -> None:
    (sentence,) = infer(model, scenes / 'nothing.png', *words, status=2).splitlines()
    assert sentence.startswith(f'vitbackbones infer: {said}')
    assert not (tmp_path / 'out').exists()


def test_a_segmentor_writes_label_maps_and_shares(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    infer('labels', scenes / 'b', '--format', 'csv', '--classes', 'green')
    labels = np.asarray(Image.open(tmp_path / 'out/images/deep_labels.png'))
    assert labels.shape == (64, 96)
    labels = np.asarray(Image.open(tmp_path / 'out/0_labels.png'))
    assert {*np.unique(labels)} == {1, 255}
    assert (labels[1:20, 1:32] == 1).all()
    head, row, *_ = rows_of(tmp_path / 'out')
    assert head == ['file_name', 'class', 'pixels', 'share']
    assert row[:2] == ['0.png', 'green']
    assert int(row[2]) == (labels == 1).sum()
    assert float(row[3]) == pytest.approx((labels == 1).mean(), abs=1e-6)


def test_interrupted_work_keeps_what_was_done(
    scenes: Path, infer: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, calls, before = Finder.predict, [], signal.getsignal(signal.SIGTERM)

    def stop(self: Finder, *args: Any, **options: Any) -> Any:
        calls.append(self)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(self, *args, **options)

    monkeypatch.setattr(Finder, 'predict', stop)
    shutil.copytree(scenes / 'more', tmp_path / 'some')
    (tmp_path / 'some/0a.png').write_bytes(b'no image')
    said = infer('boxes', tmp_path / 'some', '--format', 'coco', 'csv', status=130)
    assert f'vitbackbones infer: stopped, what was done is in {tmp_path}/out\n' in said
    assert f'{tmp_path}/some/0a.png: it cannot be read as an image' in said
    assert '1 of 4 images failed' in said
    assert [row['file_name'] for row in found_in(tmp_path / 'out')['images']] == [
        '0.png',
        '1.png',
        '2.png',
    ]
    assert len(rows_of(tmp_path / 'out')) == 4
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_full_disk_ends_it_in_one_sentence(
    scenes: Path, infer: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, calls = Rows.add, []

    def full(self: Rows, row: bytes) -> None:
        calls.append(row)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, 'No space left on device')
        add(self, row)

    monkeypatch.setattr(Rows, 'add', full)
    said = infer('boxes', scenes / 'more', status=2)
    assert 'writing fails: No space left on device; images until then are done' in said
    assert [row['file_name'] for row in found_in(tmp_path / 'out')['images']] == ['0.png', '1.png']
    assert len(calls) == 3


def test_rows_for_which_there_is_no_room_leave_those_before(tmp_path: Path) -> None:
    rows = Rows(tmp_path, b',')
    rows.add(b'1')
    file = rows._file

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

        def write(self, data: bytes) -> None:
            file.write(data[:1])
            raise OSError(errno.ENOSPC, 'No space left on device')

    rows._file = Full()
    with pytest.raises(OSError, match='No space'):
        rows.add(b'2')
    rows._file = file
    rows.add(b'3')
    whole = io.BytesIO()
    rows.copy_to(whole)
    assert whole.getvalue() == b'1,3'
    assert [*tmp_path.iterdir()] == []


def test_names_that_are_no_text_are_told_and_written(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / 'odd').mkdir()
    name = os.fsdecode(b'\xe4.png')
    shutil.copy(scenes / 'more/0.png', tmp_path / 'odd' / name)
    assert '\\udce4.png' in infer('boxes', tmp_path / 'odd', '--format', 'coco', 'csv')
    assert [row['file_name'] for row in found_in(tmp_path / 'out')['images']] == [name]
    assert b'\n\xe4.png,' in (tmp_path / 'out/predictions.csv').read_bytes()


# ----------------------------------------------------------------------- back into training


def truth(*, yolo: bool = False) -> list[Any]:
    """Objects from 0.3 on, by the name of their image: class and box (x, y, width, height)."""
    return sorted(
        (
            name.replace('b/images/', 'b/images_/') if yolo else name,
            CLASSES[label],
            [x1, y1, x2 - x1, y2 - y1],
        )
        for name in SCENES
        for label, (x1, y1, x2, y2) in SCENES[name]
        if SCORES[label] >= 0.3
    )


def learnt(data: OwnData, folder: Path) -> tuple[list[Any], list[Any]]:
    """What `new --data` would train on: as :func:`truth`, and the annotations' rows."""
    objects, every = [], []
    for split in data.splits.values():
        content = json.loads(split.annotations.read_text())
        images = {row['id']: split.images / row['file_name'] for row in content['images']}
        classes = {row['id']: row['name'] for row in content['categories']}
        for row in content['annotations']:
            image = images[row['image_id']].relative_to(folder).as_posix()
            box = [round(value, 2) for value in row['bbox']]
            objects.append((image, classes[row['category_id']], box))
            every.append(row)
    return sorted(objects), every


def test_yolo_results_are_learnt_from_again(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    infer('boxes', scenes, '--format', 'yolo')
    assert not (out / 'predictions.json').exists()
    assert (out / 'labels/nothing.txt').read_text() == ''
    assert (out / 'classes.txt').read_text().splitlines() == [*CLASSES]
    data = read_folder(out, tmp_path / 'made', task='boxes')
    assert data.form == 'YOLO'
    assert data.classes == CLASSES
    assert sum(split.number for split in data.splits.values()) == len(SCENES)
    assert learnt(data, out / 'images')[0] == truth(yolo=True)
    # Corrected by hand: another class, and what was not there.
    label = out / 'labels/a/0.txt'
    label.write_text(label.read_text().replace('0 ', '2 ', 1) + '1 0.5 0.5 0.25 0.25\n')
    (out / 'labels/more/3.txt').write_text('')
    again = learnt(read_folder(out, tmp_path / 'again', task='boxes'), out / 'images')[0]
    assert ('a/0.png', 'blue cell', [5, 7, 20, 23]) in again
    assert ('a/0.png', 'green cell', [36, 24, 24, 16]) in again
    assert 'more/3.png' not in {name for name, *_ in again}


def test_drawings_and_labels_are_not_among_the_images_whatever_folders_are_called(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    for number, folder in enumerate(('images', 'img', 'labels')):
        (tmp_path / 'data' / folder).mkdir(parents=True)
        shutil.copy(scenes / f'more/{number}.png', tmp_path / 'data' / folder / '0.png')
    infer('boxes', tmp_path / 'data', '--format', 'yolo')
    out = tmp_path / 'out'
    stems = {'images_/0', 'img_/0', 'labels_/0'}
    assert {str(p.relative_to(out / 'labels')) for p in (out / 'labels').rglob('*.*')} == {
        f'{stem}.txt' for stem in stems
    }
    assert all((out / f'{stem}_prediction.jpg').is_file() for stem in stems)
    objects, _ = learnt(read_folder(out, tmp_path / 'made', task='boxes'), out / 'images')
    assert {name for name, *_ in objects} == {f'{stem}.png' for stem in stems}


def test_linked_images_beside_which_labels_are_written_stay_what_they_are(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    images = tmp_path / 'out/images'
    images.mkdir(parents=True)
    (images / '0.png').symlink_to(scenes / 'a/0.png')
    infer('boxes', images, '--format', 'yolo')
    assert (images / '0.png').samefile(scenes / 'a/0.png')
    assert len((tmp_path / 'out/labels/0.txt').read_text().splitlines()) == 2


def test_masks_come_back_as_outlines(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    infer('masks', scenes, '--format', 'yolo', '--classes', 'green cell', 'red cell')
    data = read_folder(out, tmp_path / 'made')
    assert data.task == 'masks'
    assert data.classes == CLASSES[:2]
    objects, rows = learnt(data, out / 'images')
    for (name, label, box), wanted in zip(objects, truth(yolo=True), strict=True):
        assert (name, label) == wanted[:2]
        assert box == pytest.approx(wanted[2], abs=0.3)
    for row in rows:
        assert row['area'] == pytest.approx(row['bbox'][2] * row['bbox'][3], rel=0.01)


@pytest.mark.parametrize('model', ['boxes', 'masks'])
def test_coco_results_are_learnt_from_beside_the_images(
    model: str, scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / 'folder'
    shutil.copytree(scenes, folder)
    infer(model, folder, '--threshold', '0.3')
    shutil.copy(tmp_path / 'out/predictions.json', folder)
    data = read_folder(folder, tmp_path / 'made')
    assert (data.form, data.task) == ('COCO JSON', model)
    assert data.classes == CLASSES
    objects, rows = learnt(data, folder)
    assert objects == truth()
    assert all(row['area'] == row['bbox'][2] * row['bbox'][3] for row in rows)


def test_label_maps_are_learnt_from_beside_the_images(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / 'folder'
    shutil.copytree(scenes / 'more', folder)
    infer('labels', folder)
    for path in (tmp_path / 'out').glob('*_labels.png'):
        shutil.copy(path, folder)
    (tmp_path / 'names.txt').write_text('red\ngreen\nblue\n')
    data = read_folder(folder, tmp_path / 'made', classes=tmp_path / 'names.txt')
    assert (data.form, data.classes) == ('label maps', ('red', 'green', 'blue'))
    assert (data.image_suffix, data.label_suffix) == ('.png', '_labels.png')
    assert sum(split.number for split in data.splits.values()) == 8


def test_labels_that_may_have_been_corrected_are_not_written_over(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    infer('boxes', scenes / 'a', '--format', 'yolo')
    label = tmp_path / 'out/labels/0.txt'
    label.write_text('mine')
    (sentence,) = infer('boxes', scenes / 'a', '--format', 'yolo', status=2).splitlines()
    assert sentence == (
        f'vitbackbones infer: --format yolo: {tmp_path}/out/labels is there already, and may have '
        'been corrected: choose another --out-dir, or remove it'
    )
    assert label.read_text() == 'mine'


# ----------------------------------------------------------------------------------- videos

FRAMES = 12


def write_video(path: Path, codec: str) -> Path:
    """A red rectangle that moves to the right by four pixels a frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (96, 64))
    for i in range(FRAMES):
        writer.write(paint([(0, (4 * i, 16, 4 * i + 32, 48))])[..., ::-1])
    writer.release()
    return path


def test_frames_of_a_video_are_images(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    out, video = tmp_path / 'out', write_video(tmp_path / 'clip.avi', 'MJPG')
    said = infer('boxes', scenes / 'nothing.png', video, '--format', 'coco', 'yolo')
    assert f'13/13 {out}/images/clip_000011.jpg\n' in said
    found = found_in(out)
    frames = [f'clip_{i:06d}.jpg' for i in range(FRAMES)]
    assert [row['file_name'] for row in found['images']] == ['nothing.png', *frames]
    best = {row['image_id']: row['bbox'] for row in found['annotations'] if row['score'] > 0.8}
    numbers = {row['file_name']: row['id'] for row in found['images']}
    for i, name in enumerate(frames):
        assert best[numbers[name]] == pytest.approx([4 * i, 16, 32, 32], abs=2)
        assert (out / name.replace('.jpg', '_prediction.jpg')).exists()
    data = read_folder(out, tmp_path / 'made', form='yolo')
    assert sum(split.number for split in data.splits.values()) == FRAMES + 1
    said = infer('boxes', video, status=2)
    assert f'{out}/images/clip_000000.jpg is there already: choose another --out-dir' in said


def test_a_video_that_breaks_off_keeps_what_was_done(
    scenes: Path, infer: Callable[..., str], tmp_path: Path
) -> None:
    whole, broken = write_video(tmp_path / 'whole.mkv', 'mp4v'), tmp_path / 'broken.mkv'
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size * 5 // 6])
    said = infer('boxes', broken, scenes / 'nothing.png', status=1)
    files = [row['file_name'] for row in found_in(tmp_path / 'out')['images']]
    done = len(files) - 1
    assert 1 <= done < FRAMES - 2
    assert files[-1] == 'nothing.png'
    assert f'{broken}: the video breaks off after {done} of {FRAMES} frames\n' in said


def test_what_is_no_video_is_refused(infer: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / 'text.mp4').write_text('no video')
    said = infer('boxes', tmp_path / 'text.mp4', status=2)
    assert f'vitbackbones infer: {tmp_path}/text.mp4 cannot be read as a video\n' in said
    assert not (tmp_path / 'out').exists()
