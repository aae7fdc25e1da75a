"""How much there is to learn: what is counted, what is an error, and what is said."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from PIL import Image

from vitbackbones.cli.main import main
from vitbackbones.data import before_training
from vitbackbones.data.annotations import read_coco
from vitbackbones.data.configs import check_files_as_they_come
from vitbackbones.data.counts import count_objects, trained_labels
from vitbackbones.data.loading import DataError, annotation_problems
from vitbackbones.launch.checks import check_config
from vitbackbones.launch.loading import load_config

HEIGHT, WIDTH = 48, 64
POLYGON = [[4, 4, 24, 4, 24, 20]]


def run_lengths(width: int) -> dict[str, Any]:
    return dict(size=[HEIGHT, width], counts=[9, HEIGHT * width - 9])


def odd_rows(seed: int) -> dict[str, Any]:
    """An annotation file with every reason that there is to leave something out."""
    rng = random.Random(seed)
    images = [
        dict(id=i * 3, file_name=f'{i}.png', width=rng.choice([WIDTH, 20]), height=HEIGHT)
        for i in range(12)
    ]
    annotations = []
    for i in range(60):
        image = rng.choice(images[:10])
        row = dict(
            id=i,
            image_id=image['id'] if i % 9 else 1,
            category_id=rng.choice([2, 5, 7]),
            bbox=[rng.randrange(-30, 70), 4, rng.choice([0.5, 8, 20]), 16],
            area=rng.choice([0, 9, 9, 9]),
            iscrowd=rng.choice([0, 0, 0, 1]),
            segmentation=rng.choice(
                [POLYGON, POLYGON, run_lengths(image['width']), [[1, 1, 2, 2]]]
            ),
        )
        if rng.random() < 0.1:
            row['ignore'] = 1
        annotations.append(row)
    categories = [dict(id=7, name='dog'), dict(id=2, name='cat'), dict(id=5, name='cow')]
    return dict(images=images, annotations=annotations, categories=categories)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('poly2mask', [True, False])
def test_counted_is_what_mmdet_hands_on(seed: int, poly2mask: bool, tmp_path: Path) -> None:
    file = tmp_path / 'annotations.json'
    file.write_text(json.dumps(odd_rows(seed)))
    options: dict[str, Any] = dict(
        filter_cfg=[None, dict(filter_empty_gt=True), dict(filter_empty_gt=True, min_size=32)][
            seed % 3
        ],
        indices=[None, 5, [0, 2, 3], None][seed],
    )
    init_default_scope('mmdet')
    dataset = DATASETS.build(
        dict(
            type='CocoDataset',
            ann_file=str(file),
            data_prefix=dict(img=''),
            metainfo=dict(classes=('dog', 'cow')),
            pipeline=[],
            **options,
        )
    )
    step = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=poly2mask)
    load = TRANSFORMS.build(step)
    objects, without = [0, 0], 0
    for info in dataset:
        info = load(dict(info, ori_shape=(info['height'], info['width'])))
        labels = info['gt_bboxes_labels'][~info['gt_ignore_flags']]
        objects = np.add(objects, np.bincount(labels, minlength=2)).tolist()
        without += len(labels) == 0

    rows = read_coco(file, ('dog', 'cow'), masks=True).rows
    assert rows is not None
    counts = count_objects(rows, poly2mask=poly2mask, **options)
    assert counts.objects == dict(zip(('dog', 'cow'), objects, strict=True))
    assert (counts.images_used, counts.images_without_objects) == (len(dataset), without)
    assert counts.annotations == 60 == sum(objects) + sum(counts.annotations_left_out.values())
    assert counts.images == 12 == len(dataset) + sum(counts.images_left_out.values())


# ------------------------------------------------------------------------- whole datasets

Content = dict[str, Any]


def good_rows(number: int = 12, classes: tuple[str, ...] = ('cat', 'dog')) -> Content:
    """Boxes that fill most of the lower right quarter, so that corners would reach beyond."""
    rng = random.Random(0)
    images = [
        dict(id=i, file_name=f'{i}.png', width=WIDTH, height=HEIGHT) for i in range(1, number + 1)
    ]
    annotations = []
    for i in range(number):
        x, y = rng.randrange(30, 40), rng.randrange(20, 30)
        annotations.append(
            dict(
                id=i,
                image_id=i + 1,
                category_id=i % len(classes),
                bbox=[x, y, 20, 16],
                area=300,
                iscrowd=0,
                segmentation=[[x, y, x + 20, y, x + 20, y + 16]],
            )
        )
    categories = [dict(id=i, name=name) for i, name in enumerate(classes)]
    return dict(images=images, annotations=annotations, categories=categories)


class Dataset:
    """Files of a dataset, and a config that has it for training, or for validation, too."""

    def __init__(self, root: Path, **dataset: Any) -> None:
        self.root = root
        self.dataset = dict(data_root=str(root), **dataset)
        self.rest: dict[str, Any] = {}
        self.file = root / 'annotations.json'

    def check(self, split: str = 'train') -> tuple[int, list[dict[str, Any]]]:
        """Exit status and what --out says of the datasets of the split."""
        out = self.root / 'found.json'
        options = ['--split', split, '--jobs', '1', '--out', str(out)]
        status = main(['check-data', self.config(), *options])
        return status, json.loads(out.read_text())

    def findings(self, split: str = 'train') -> tuple[int, dict[str, str]]:
        """Exit status, and what is found by kind."""
        status, found = self.check(split)
        return status, {row['kind']: row['detail'] for part in found for row in part['findings']}

    def train(self) -> int:
        """Exit status of a training that does not start."""
        return main(['train', self.config(), '--work-dir', str(self.root / 'work')])

    def before_training(self) -> None:
        """What a training that starts does with its data before."""
        cfg = load_config(self.config())
        init_default_scope(cfg.default_scope)
        before_training.check_annotations(cfg, ('train',))

    def config(self) -> str:
        values = dict(
            model=dict(type='Model'),
            train_dataloader=dict(dataset=self.dataset),
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='AdamW')),
        )
        path = self.root / 'config.py'
        lines = [f'{key} = {value!r}\n' for key, value in {**values, **self.rest}.items()]
        path.write_text(''.join(lines))
        return str(path)


@pytest.fixture
def objects(tmp_path: Path) -> Dataset:
    """Detection without anything wrong; the test writes its rows."""
    dataset = Dataset(
        tmp_path,
        type='CocoDataset',
        ann_file='annotations.json',
        data_prefix=dict(img='.'),
        metainfo=dict(classes=('cat', 'dog')),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
        ],
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
    )
    for i in range(1, 13):
        Image.new('RGB', (WIDTH, HEIGHT)).save(tmp_path / f'{i}.png')
    dataset.file.write_text(json.dumps(good_rows()))
    return dataset


def each(**values: Any) -> Callable[[Content], None]:
    """Set something in all annotations."""

    def change(content: Content) -> None:
        for row in content['annotations']:
            row.update(values)

    return change


def as_corners(content: Content) -> None:
    for row in content['annotations']:
        x, y, w, h = row['bbox']
        row['bbox'] = [x, y, x + w, y + h]


def few_corners(content: Content) -> None:
    as_corners(content)
    content['annotations'] = content['annotations'][:6]


def names(*values: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for row, name in zip(content['images'], values, strict=False):
            row['file_name'] = name

    return change


def with_run_lengths(number: int) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for row in content['annotations'][:number]:
            row['segmentation'] = run_lengths(WIDTH)

    return change


def narrow(content: Content) -> None:
    for row in content['images']:
        row['width'] = 31


NO_OBJECT = 'no object is left of 12 annotations: 12 '
OBJECT_ERRORS = {
    'normalised': (each(bbox=[0.1, 0.2, 0.3, 0.4]), 'normalised boxes', '12 of 12 boxes'),
    'normalised, up to 1': (each(bbox=[0, 0, 1, 1]), 'normalised boxes', 'as shares of the image'),
    'corners': (as_corners, 'boxes as corners', '12 lie inside when read as corners'),
    'crowd': (each(iscrowd=1), 'nothing left', NO_OBJECT + 'crowd'),
    'ignore': (each(ignore=1), 'nothing left', NO_OBJECT + 'marked ignore'),
    'empty boxes': (each(area=0), 'nothing left', NO_OBJECT + 'without area'),
    'outside': (each(bbox=[70, 4, 9, 9]), 'nothing left', NO_OBJECT + 'outside the image'),
    'images': (each(image_id=99), 'nothing left', NO_OBJECT + 'image not listed'),
    'run lengths': (with_run_lengths(12), 'nothing left', 'LoadAnnotations(poly2mask=True)'),
    'small': (
        narrow,
        'nothing left',
        'no image with an object is left of 12: 12 too small (min_size)',
    ),
    'one file': (
        names(*['1.png'] * 12),
        'one file for all images',
        "all 12 images have the file_name '1.png'",
    ),
}


@pytest.mark.parametrize('case', OBJECT_ERRORS)
def test_nothing_to_learn_is_an_error_before_training(
    case: str, objects: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    change, kind, words = OBJECT_ERRORS[case]
    content = good_rows()
    change(content)
    objects.file.write_text(json.dumps(content))
    status, found = objects.findings()
    assert status == 1
    assert words in found[kind]
    capsys.readouterr()
    assert objects.train() == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert f'{objects.file}: {found[kind]} ({kind})' in said


@pytest.mark.parametrize('case', ['crowd', 'corners', 'run lengths'])
def test_so_it_is_with_the_tools_of_mmdet(case: str, objects: Dataset) -> None:
    change, kind, words = OBJECT_ERRORS[case]
    init_default_scope('mmdet')
    dataset = DATASETS.build(objects.dataset)
    assert list(annotation_problems(dataset)) == []
    content = good_rows()
    change(content)
    objects.file.write_text(json.dumps(content))
    (problem,) = annotation_problems(dataset)
    assert problem.startswith(f'{objects.file}: ')
    assert words in problem
    assert problem.endswith(f'({kind})')


OBJECT_WARNINGS = {
    'no dog': (each(category_id=0), 'class without objects', 'no object of 1 of 2 classes: dog'),
    'some run lengths': (with_run_lengths(5), 'run-length masks', '5 objects'),
    'two rows of one file': (
        names('1.png', '1.png'),
        'one file for several images',
        "1 files stand for several images, '1.png' for 2 of them",
    ),
    'few corners': (few_corners, 'boxes like corners', '6 of 6 boxes reach beyond'),
}


@pytest.mark.parametrize('case', OBJECT_WARNINGS)
def test_what_will_not_be_learnt_is_a_warning_in_one_line(
    case: str, objects: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    change, kind, words = OBJECT_WARNINGS[case]
    content = good_rows()
    change(content)
    objects.file.write_text(json.dumps(content))
    status, found = objects.findings()
    assert status == 0
    assert words in found[kind]
    assert f'warning: {kind}: 1 (' in capsys.readouterr().out
    capsys.readouterr()
    objects.before_training()
    said = [line for line in capsys.readouterr().err.splitlines() if words in line]
    assert len(said) == 1
    assert said[0].startswith(f'vitbackbones: {objects.file}: ')


def test_data_sets_that_are_trained_together_are_judged_together(
    objects: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = []
    for change in (each(category_id=0), each(category_id=1), each(iscrowd=1)):
        content = good_rows()
        change(content)
        (objects.root / f'{len(parts)}.json').write_text(json.dumps(content))
        parts.append(dict(objects.dataset, ann_file=f'{len(parts)}.json'))
    objects.dataset = dict(type='ConcatDataset', datasets=parts)
    assert objects.findings() == (0, {})
    capsys.readouterr()
    objects.before_training()
    assert capsys.readouterr().err == ''
    init_default_scope('mmdet')
    built = DATASETS.build(objects.dataset)
    assert list(annotation_problems(built)) == []
    objects.dataset = dict(type='ConcatDataset', datasets=parts[2:] * 2)
    status, found = objects.findings()
    assert (status, [*found]) == (1, ['nothing left'])
    assert found['nothing left'] == 'no object is left of 24 annotations: 24 crowd'
    (problem,) = annotation_problems(DATASETS.build(objects.dataset))
    assert 'no object is left of 24 annotations: 24 crowd' in problem


def test_good_data_are_trained_on_without_a_word(
    objects: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert objects.findings() == (0, {})
    capsys.readouterr()
    objects.before_training()
    assert capsys.readouterr().err == ''


def test_boxes_over_most_of_an_image_are_no_corners(objects: Dataset) -> None:
    content = good_rows()
    each(bbox=[2, 2, 61, 45])(content)
    objects.file.write_text(json.dumps(content))
    assert objects.findings() == (0, {})


@pytest.mark.parametrize('left_out', ['annotations', 'annotations, categories'])
def test_images_without_annotations_beside_others_are_legal(
    left_out: str, objects: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """Negatives, or the unlabelled half of a semi-supervised training."""
    content = good_rows()
    content['annotations'] = []
    if 'categories' in left_out:  # as exports of unlabelled images have it
        del content['annotations']
        content['categories'] = []
    (objects.root / 'images.json').write_text(json.dumps(content))
    alone = dict(objects.dataset, ann_file='images.json', filter_cfg=dict(filter_empty_gt=False))
    objects.dataset = dict(type='ConcatDataset', datasets=[objects.dataset, alone])
    assert objects.findings() == (0, {})
    capsys.readouterr()
    objects.before_training()
    check_config(load_config(objects.config()), ('train',))
    assert capsys.readouterr().err == ''
    init_default_scope('mmdet')
    built = DATASETS.build(objects.dataset)
    assert len(built) == 24
    assert list(annotation_problems(built)) == []
    # mmengine cannot hold a dataset without a single image.
    objects.dataset['datasets'][1] = dict(alone, filter_cfg=dict(filter_empty_gt=True))
    status, found = objects.findings()
    assert (status, [*found]) == (1, ['nothing left'])
    assert 'no image is left of 12' in found['nothing left']
    objects.dataset = alone
    status, found = objects.findings()
    assert (status, [*found]) == (1, ['nothing left'])
    assert objects.train() == 2
    assert 'it has no annotation of its 12 images' in capsys.readouterr().err


_DUMP = dict(type='DumpResults', out_file_path='results.pkl')


@pytest.mark.parametrize(
    ('evaluator', 'only_written'),
    [
        (dict(type='CocoMetric'), False),
        (dict(type='CocoMetric', format_only=True), True),
        (dict(type='Evaluator', metrics=[dict(type='CocoMetric')]), False),
        (dict(metrics=dict(type='CocoMetric', format_only=True)), True),
        (_DUMP, True),
        ([dict(type='DumpDetResults', out_file_path='results.pkl')], True),
        ([_DUMP, dict(type='CocoMetric')], False),
    ],
    ids=['metric', 'format_only', 'inside', 'format_only inside', 'dump', 'dump of mmdet', 'both'],
)
def test_a_validation_file_without_annotations_is_an_error_unless_results_are_only_written(
    evaluator: Any, only_written: bool, objects: Dataset
) -> None:
    content = good_rows()
    content['annotations'] = []
    (objects.root / 'empty.json').write_text(json.dumps(content))
    dataset = dict(objects.dataset, ann_file='empty.json', test_mode=True)
    objects.rest = dict(
        val_dataloader=dict(dataset=dataset),
        val_evaluator=evaluator,
    )
    status, found = objects.findings('val')
    if only_written:
        assert (status, found) == (0, {})
    else:
        expected = {'nothing left': 'it has no annotation of its 12 images'}
        assert (status, found) == (1, expected)


def test_counts_of_objects_are_printed_and_written(
    objects: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    content = good_rows()
    content['annotations'] = content['annotations'][:9]
    content['annotations'][0]['iscrowd'] = 1
    content['annotations'][2]['image_id'] = 2
    content['images'][4]['width'] = 20
    Image.new('RGB', (20, HEIGHT)).save(objects.root / '5.png')
    content['annotations'][4]['bbox'] = [2, 2, 9, 9]
    objects.file.write_text(json.dumps(content))
    status, (found,) = objects.check()
    assert (status, found['findings']) == (0, [])
    assert found['counts'] == dict(
        images=dict(
            listed=12,
            used=7,
            left_out={'no annotations (filter_empty_gt)': 4, 'too small (min_size)': 1},
            without_objects=1,
        ),
        annotations=dict(listed=9, used=7, left_out={'crowd': 1, 'of images left out': 1}),
        objects=dict(cat=3, dog=4),
    )
    assert capsys.readouterr().out.splitlines()[1:7] == [
        '  images used: 7; left out: 4 no annotations (filter_empty_gt), 1 too small (min_size)',
        '    of these without objects: 1',
        '  objects used: 7; left out: 1 crowd, 1 of images left out',
        '  class  objects  images',
        '  cat          3       3',
        '  dog          4       4',
    ]


def test_of_many_classes_the_most_and_least_frequent_are_shown(
    objects: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = tuple(f'c{i}' for i in range(60))
    content = good_rows(12, classes)
    for i in range(600):
        row = content['annotations'][i % 12]
        content['annotations'].append(dict(row, id=100 + i, category_id=min(i // 3, i % 40)))
    objects.file.write_text(json.dumps(content))
    objects.dataset['metainfo'] = dict(classes=classes)
    status, (found,) = objects.check()
    assert status == 0
    assert len(found['counts']['objects']) == 60
    (finding,) = found['findings']
    assert finding['detail'] == 'no object of 20 of 60 classes: c40, c41, c42, c43, c44 and 15 more'
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 30
    assert '  20 of 60 classes have none' in lines
    assert any(line.startswith('  ... 25 more') for line in lines)


# -------------------------------------------------------------------------- segmentation


@pytest.fixture
def maps(tmp_path: Path) -> Dataset:
    """Segmentation of two classes without anything wrong; the test writes its label maps."""
    dataset = Dataset(
        tmp_path,
        type='BaseSegDataset',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=('ground', 'tree'), palette=[[0] * 3, [1] * 3]),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    dataset.rest = dict(default_scope='mmseg')
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    for i in range(5):
        Image.new('RGB', (WIDTH, HEIGHT)).save(tmp_path / 'images' / f'{i}.jpg')
    write_maps(tmp_path, [0, 1, 255])
    return dataset


def write_maps(root: Path, values: list[int]) -> None:
    for i in range(5):
        labels = np.resize(values, (HEIGHT, WIDTH)).astype(np.uint8)
        Image.fromarray(labels).save(root / 'labels' / f'{i}.png')


PIXEL_ERRORS: dict[str, tuple[list[int], dict[str, Any], str]] = {
    '0 and 255': ([0, 255], {}, "is 'ground' or ignored; the files hold the values 0 and 255"),
    '0 and 255, reduced': ([0, 255], dict(reduce_zero_label=True), 'ignores both'),
    'reduced': ([0, 1], dict(reduce_zero_label=True), 'reduce_zero_label=True ignores the value 0'),
    'ignored': ([255], {}, 'in all 5 label maps every pixel is ignored'),
    'one class': ([1], {}, "every pixel is 'tree' or ignored"),
}


@pytest.mark.parametrize('case', PIXEL_ERRORS)
def test_label_maps_without_anything_to_learn_are_an_error_before_training(
    case: str, maps: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    values, options, words = PIXEL_ERRORS[case]
    write_maps(maps.root, values)
    maps.dataset.update(options)
    status, found = maps.findings()
    assert status == 1
    assert words in found['nothing left']
    capsys.readouterr()
    assert maps.train() == 2
    assert f'{found["nothing left"]} (nothing left)' in capsys.readouterr().err.splitlines()[-1]


def test_a_softmax_over_one_class_is_an_error_and_a_sigmoid_is_none(
    maps: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    write_maps(maps.root, [0, 255])
    maps.dataset['metainfo'] = dict(classes=('tree',), palette=[[1] * 3])
    head = dict(num_classes=1, loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0))
    maps.rest['model'] = dict(type='Model', decode_head=head, auxiliary_head=[dict(num_classes=1)])
    status, found = maps.check()
    details = [row['detail'] for row in found[0]['findings']]
    assert status == 1
    assert [detail.partition(' has num_classes=1')[0] for detail in details] == [
        'model.auxiliary_head',
        'model.decode_head',
    ]
    capsys.readouterr()
    assert maps.train() == 2
    assert 'softmax over one class' in capsys.readouterr().err
    sigmoid = dict(num_classes=1, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
    maps.rest['model'] = dict(type='Model', decode_head=sigmoid)
    assert maps.findings() == (0, {})


def test_labels_one_too_low_are_a_warning_with_their_cause(maps: Dataset) -> None:
    classes = ('ground', 'tree', 'sky')
    maps.dataset['metainfo'] = dict(classes=classes, palette=[[0] * 3] * 3)
    maps.dataset['reduce_zero_label'] = True
    write_maps(maps.root, [0, 1, 2])
    status, found = maps.findings()
    assert status == 0
    assert found['class without pixels'].startswith(
        'in all 5 label maps no pixel of 1 of 3 classes: sky; reduce_zero_label=True ignores'
    )
    write_maps(maps.root, [0, 1, 3])
    assert maps.findings()[1] == {
        'class without pixels': 'in all 5 label maps no pixel of 1 of 3 classes: tree'
    }


def test_a_fair_sample_of_label_maps_is_read_before_training(
    maps: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_maps(maps.root, [0])
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(maps.root / 'labels' / '4.png')
    monkeypatch.setattr(before_training, 'LABEL_MAPS', 3)
    classes = ('ground', 'tree', 'sky')
    maps.dataset['metainfo'] = dict(classes=classes, palette=[[0] * 3] * 3)
    maps.before_training()
    said = capsys.readouterr().err
    assert 'in the 3 of 5 label maps that were read no pixel of 1 of 3 classes: sky' in said


def test_the_sample_is_shared_by_the_datasets_of_a_split(
    maps: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = ('ground', 'tree', 'sky')
    maps.dataset['metainfo'] = dict(classes=classes, palette=[[0] * 3] * 3)
    (maps.root / 'first.txt').write_text('0\n')
    parts = [dict(maps.dataset, ann_file='first.txt'), *[dict(maps.dataset)] * 3]
    maps.dataset = dict(type='ConcatDataset', datasets=parts)
    monkeypatch.setattr(before_training, 'LABEL_MAPS', 4)
    maps.before_training()
    assert 'in the 4 of 16 label maps that were read no pixel' in capsys.readouterr().err


@TRANSFORMS.register_module()
class BinariseMask:
    """A user's step: what is not 0 is a tree, and more than that where it is asked to."""

    def __init__(self, tree: int = 1) -> None:
        self.tree = tree

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        results['gt_seg_map'] = (results['gt_seg_map'] > 0).astype(np.uint8) * self.tree
        return results


@pytest.mark.parametrize('value', [128, 255])
def test_label_maps_that_the_pipeline_converts_are_not_refused(
    value: int, maps: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    write_maps(maps.root, [0, value])
    maps.dataset['pipeline'].append(dict(type='BinariseMask'))
    status, found = maps.findings()
    assert (status, {*found} <= {'classes as loaded', 'labels as loaded'}) == (0, True)
    capsys.readouterr()
    maps.before_training()
    said = capsys.readouterr().err
    assert 'no pixel of' in said or "every pixel is 'ground' or ignored" in said
    assert 'as LoadAnnotations gives them, before other steps' in said
    cfg = load_config(maps.config())
    check_files_as_they_come(cfg, ('train',))
    labels = DATASETS.build(cfg.train_dataloader.dataset)[0]['gt_seg_map']
    assert np.unique(labels).tolist() == [0, 1]
    cfg.train_dataloader.dataset.pipeline[0].steps[-1].tree = 7  # beyond the classes after all
    with pytest.raises(DataError, match='labels 7 in training'):
        DATASETS.build(cfg.train_dataloader.dataset)[0]


def test_a_label_beyond_the_classes_stops_before_training(
    maps: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    write_maps(maps.root, [0, 1, 2])
    assert maps.train() == 2
    assert 'labels 2 in training, but classes are 0 to 1' in capsys.readouterr().err


def test_counts_of_pixels_are_printed_and_written(
    maps: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(maps.root / 'labels' / '0.png')
    status, (found,) = maps.check()
    third = HEIGHT * WIDTH // 3
    assert (status, found['findings']) == (0, [])
    assert found['counts'] == dict(
        images=dict(listed=5, used=5, left_out={}),
        label_maps=dict(listed=5, read=5),
        pixels=dict(ground=7 * third, tree=4 * third),
        ignored_pixels=4 * third,
    )
    assert capsys.readouterr().out.splitlines()[1:6] == [
        '  label maps read: 5 of 5',
        f'  pixels: {11 * third} of classes, {4 * third} ignored (26.7%)',
        '  class   pixels  images',
        f'  ground    {7 * third}       5',
        f'  tree      {4 * third}       4',
    ]


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('label_map', [None, {0: 3, 3: 255, 4: 0}])
def test_labels_are_counted_as_mmseg_trains_them(
    reduce_zero_label: bool, label_map: dict[int, int] | None, tmp_path: Path
) -> None:
    path = tmp_path / 'all.png'
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path)
    init_default_scope('mmseg')
    row = dict(
        seg_map_path=str(path),
        reduce_zero_label=reduce_zero_label,
        label_map=label_map,
        seg_fields=[],
    )
    expected = TRANSFORMS.build(dict(type='LoadAnnotations'))(row)['gt_seg_map']
    assert np.array_equal(trained_labels(reduce_zero_label, label_map), expected.ravel())
