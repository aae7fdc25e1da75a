"""That a label stands for the same class everywhere, whatever the order and shape of the files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from pycocotools import mask as coco_mask

from vitbackbones.cli.main import main
from vitbackbones.data.configs import as_list, wants_masks
from vitbackbones.engine.preflight import PreflightError, PreflightHook
from vitbackbones.errors import UserError
from vitbackbones.launch.built import as_built
from vitbackbones.launch.checks import check_config
from vitbackbones.launch.classes import use_one_order
from vitbackbones.launch.loading import load_config

from .colours import BOX, SIZE, Scenes

RED_GREEN, GREEN_RED = ('red', 'green'), ('green', 'red')


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    return Scenes(tmp_path)


def trained(config: str, *words: str) -> Path:
    work = Path(config).with_name('work')
    assert main(['train', config, '--work-dir', str(work), *words]) == 0
    return work


def scores(work: Path) -> dict[str, float]:
    """What the last validation measured."""
    (path,) = sorted(work.glob('*/vis_data/scalars.json'))[-1:]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {key: value for key, value in rows[-1].items() if key.startswith('coco/')}


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    return said


def reverse(content: dict[str, Any]) -> None:
    content['categories'].reverse()


def first_unused(content: dict[str, Any]) -> None:
    """As exports have it that list a root category of the same name."""
    content['categories'].insert(0, dict(id=0, name='red', supercategory='none'))


def only_red(content: dict[str, Any]) -> None:
    """As exports have it that list nothing but what occurs."""
    for key in ('annotations', 'categories', 'images'):
        del content[key][1:]


def without(*fields: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for row in content['annotations']:
            for field in fields:
                del row[field]

    return change


def text(key: str, field: str, rows: slice = slice(None)) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for row in content[key][rows]:
            row[field] = str(row[field])

    return change


def numbered_from_0(content: dict[str, Any]) -> None:
    for number, row in enumerate(content['annotations']):
        row['id'] = number


# What is done to the files of both splits, or to validation alone; what check-data calls it.
FILES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    'order': (reverse, 'categories in another order'),
    'root category': (first_unused, 'category without use'),
    'no iscrowd': (without('iscrowd'), 'optional field left out'),
    'no iscrowd and no area': (without('iscrowd', 'area'), 'optional field left out'),
    'image_id as text': (text('annotations', 'image_id'), 'ids of other types'),
    'some image_id as text': (text('annotations', 'image_id', slice(1)), 'ids of other types'),
    'some image ids as text': (text('images', 'id', slice(1)), 'ids of other types'),
    'category ids as text': (text('categories', 'id'), 'ids of other types'),
    'annotation ids as text': (text('annotations', 'id'), 'annotation ids as text'),
    'annotation id 0': (numbered_from_0, 'annotation id 0'),
}


@pytest.mark.parametrize('name', FILES)
def test_what_can_be_read_is_made_right_without_a_change_of_the_file(
    name: str, scenes: Scenes, capsys: pytest.CaptureFixture[str]
) -> None:
    change, kind = FILES[name]
    for content in scenes.content.values():
        change(content)
    before = scenes.save()
    config = scenes.config()
    assert main(['check-data', config, '--split', 'val']) == 0
    assert kind in capsys.readouterr().out
    found = scores(trained(config))
    assert found['coco/bbox_mAP'] == found['coco/segm_mAP'] == 1
    assert found['coco/red_precision'] == found['coco/green_precision'] == 1
    said = capsys.readouterr().err
    assert said.count(str(scenes.files['val'])) == 1
    assert {split: path.read_bytes() for split, path in scenes.files.items()} == before


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_files_of_other_encodings_are_read(encoding: str, scenes: Scenes) -> None:
    for content in scenes.content.values():
        content['info'] = dict(contributor='Jos\u00e9')
    scenes.save(encoding)
    assert main(['check-data', scenes.config(), '--split', 'val']) == 0
    assert scores(trained(scenes.config()))['coco/bbox_mAP'] == 1


def test_good_files_are_not_copied(scenes: Scenes) -> None:
    scenes.save()
    work = trained(scenes.config())
    assert scores(work)['coco/bbox_mAP'] == 1
    assert not (work / 'annotations').exists()


def test_a_file_of_validation_in_another_order_is_read_by_name(scenes: Scenes) -> None:
    reverse(scenes.content['val'])
    scenes.save()
    assert scores(trained(scenes.config()))['coco/bbox_mAP'] == 1


def test_a_class_without_category_in_the_file_of_validation_is_one_without_objects(
    scenes: Scenes, capsys: pytest.CaptureFixture[str]
) -> None:
    only_red(scenes.content['val'])
    scenes.save()
    config = scenes.config()
    assert main(['check-data', config, '--split', 'val']) == 0
    said = capsys.readouterr().out
    assert 'no object of 1 of 2 classes: green' in said
    assert 'category left out' in said
    found = scores(trained(config))
    assert found['coco/bbox_mAP'] == found['coco/red_precision'] == 1


@pytest.mark.parametrize('name', ['Green', 'blue'])
def test_a_class_that_may_have_another_name_in_the_file_is_refused(
    name: str, scenes: Scenes, capsys: pytest.CaptureFixture[str]
) -> None:
    """In validation only one that is almost the same; in training any that is not trained."""
    split = 'val' if name == 'Green' else 'train'
    scenes.content[split]['categories'][1]['name'] = name
    scenes.save()
    said = refused(['train', scenes.config(), '--work-dir', str(scenes.root / 'work')], capsys)
    assert f'{split}.json: it has no class green; its classes are red, {name}: ' in said


@pytest.mark.parametrize(
    'evaluate',
    [
        lambda metric: dict(type='Evaluator', metrics=[metric]),
        lambda metric: dict(metrics=metric),
        lambda metric: dict(type=Evaluator, metrics=[metric]),
    ],
    ids=['list', 'one', 'class'],
)
def test_metrics_inside_an_evaluator_read_what_the_dataset_reads(
    evaluate: Callable[[dict[str, Any]], Any], scenes: Scenes
) -> None:
    reverse(scenes.content['val'])
    without('iscrowd')(scenes.content['val'])
    scenes.save()
    cfg = load_config(scenes.config(masks=False))
    cfg.work_dir = str(scenes.root / 'work')
    cfg.val_evaluator = evaluate(cfg.val_evaluator)
    check_config(cfg, ('val',))
    built = as_built(cfg, ('val',))
    (metric,) = as_list(built.val_evaluator.metrics)
    assert metric.ann_file == built.val_dataloader.dataset.ann_file
    assert as_list(cfg.val_evaluator.metrics)[0].ann_file == str(scenes.files['val'])


def test_the_file_that_is_evaluated_is_that_of_the_dataset(scenes: Scenes) -> None:
    other = scenes.root / 'other.json'
    scenes.save()
    cfg = load_config(scenes.config(masks=False))
    cfg.val_evaluator.ann_file = str(other)
    with pytest.raises(UserError, match=rf'val_evaluator.ann_file={other} is not there, though'):
        check_config(cfg, ('val',))
    content = copy.deepcopy(scenes.content['val'])
    content['annotations'] = []
    other.write_text(json.dumps(content))
    check_config(cfg, ('val',))  # of the same images, whoever annotated them
    content['images'][0]['file_name'] = 'elsewhere.png'
    other.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'elsewhere\.png in the other; name the same file in both'):
        check_config(cfg, ('val',))


def test_masks_of_a_metric_inside_an_evaluator_are_scored_and_by_name(scenes: Scenes) -> None:
    reverse(scenes.content['val'])
    without('iscrowd', 'area')(scenes.content['val'])
    scenes.save()
    config = scenes.config(evaluate=lambda metric: dict(type='Evaluator', metrics=[metric]))
    found = scores(trained(config))
    assert found['coco/bbox_mAP'] == found['coco/segm_mAP'] == 1


def test_each_metric_of_several_datasets_follows_the_classes_of_its_own(scenes: Scenes) -> None:
    reverse(scenes.content['val'])
    scenes.save()
    other = Scenes(scenes.root / 'other')
    for row in other.content['val']['annotations']:  # is measured by its boxes alone
        del row['segmentation'], row['iscrowd']
    other.save()
    cfg = load_config(scenes.config())
    cfg.work_dir = str(scenes.root / 'work')
    second = load_config(other.config(masks=False))
    parts = [cfg.val_dataloader.dataset, second.val_dataloader.dataset]
    parts[1].metainfo.classes = GREEN_RED
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=parts)
    metrics = [cfg.val_evaluator, second.val_evaluator]
    prefixes = ['one', 'two']
    kind = 'MultiDatasetsEvaluator'
    cfg.val_evaluator = dict(type=kind, metrics=metrics, dataset_prefixes=prefixes)
    built = as_built(cfg, ('val',))
    for dataset, metric, names in zip(
        built.val_dataloader.dataset.datasets,
        built.val_evaluator.metrics,
        (RED_GREEN, GREEN_RED),
        strict=True,
    ):
        for file in (metric.ann_file, Path(dataset.data_root, dataset.ann_file)):
            content = json.loads(Path(file).read_text())
            assert tuple(row['name'] for row in content['categories']) == names
    # The boxes of the second dataset need no masks.
    assert not wants_masks(cfg, 'val', parts[1])


def test_a_file_that_a_metric_inside_an_evaluator_lacks_is_named(scenes: Scenes) -> None:
    scenes.save()
    cfg = load_config(scenes.config())
    cfg.val_evaluator = dict(metrics=[dict(cfg.val_evaluator, ann_file='nowhere.json')])
    with pytest.raises(UserError, match=r'nowhere\.json is not there'):
        check_config(cfg, ('val',))


def test_classes_of_validation_follow_those_of_training(scenes: Scenes) -> None:
    scenes.save()
    assert scores(trained(scenes.config(val_classes=GREEN_RED)))['coco/bbox_mAP'] == 1


@pytest.mark.parametrize(
    ('palette', 'want'),
    [
        ((220, 20, 60), (220, 20, 60)),
        ('random', 'random'),
        ([(1, 1, 1), (2, 2, 2), (3, 3, 3)], [(2, 2, 2), (1, 1, 1), (3, 3, 3)]),
    ],
    ids=['one colour', 'name', 'a colour each'],
)
def test_only_a_list_of_colours_follows_the_order_of_the_classes(
    palette: Any, want: Any, scenes: Scenes
) -> None:
    scenes.content['val']['categories'].append(dict(id=5, name='blue'))
    scenes.save()
    cfg = load_config(scenes.config(classes=('red', 'green', 'blue')))
    dataset = cfg.test_dataloader.dataset
    dataset.metainfo.palette = palette
    init_default_scope(cfg.default_scope)
    use_one_order(cfg, ('test',), ('green', 'red', 'blue'))
    assert dataset.metainfo.classes == ('green', 'red', 'blue')
    assert dataset.metainfo.palette == want


@pytest.mark.parametrize('reverse_file', [False, True])
def test_each_class_gets_its_own_number_whatever_the_ids(
    reverse_file: bool, scenes: Scenes
) -> None:
    """Green is never there; mmdet would say so of red, whose id is lower."""
    content = scenes.content['val']
    for key in ('annotations', 'images'):
        del content[key][1:]
    if reverse_file:
        reverse(content)
    scenes.save()
    found = scores(trained(scenes.config(classes=GREEN_RED, knows=GREEN_RED)))
    assert found['coco/red_precision'] == 1
    assert np.isnan(found['coco/green_precision'])


def test_the_order_of_the_config_counts_and_not_that_of_the_file(scenes: Scenes) -> None:
    scenes.save()
    config = scenes.config(classes=GREEN_RED, knows=GREEN_RED)
    found = scores(trained(config))
    assert found['coco/red_precision'] == found['coco/green_precision'] == 1


def ready(scenes: Scenes, split: str) -> tuple[Any, dict[str, Any]]:
    """A dataset as a run builds it, and the content of the file that it reads."""
    cfg = load_config(scenes.config())
    cfg.work_dir = str(scenes.root / 'work')
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(as_built(cfg, (split,))[f'{split}_dataloader'].dataset)
    return dataset, json.loads(Path(dataset.ann_file).read_text())


def test_an_object_without_mask_is_neither_learnt_nor_background(
    scenes: Scenes, capsys: pytest.CaptureFixture[str]
) -> None:
    del scenes.content['train']['annotations'][1]['segmentation']
    scenes.save()
    assert main(['check-data', scenes.config(), '--split', 'train']) == 0
    assert '1 of 2 annotations have no segmentation' in capsys.readouterr().out
    dataset, _ = ready(scenes, 'train')
    red, green = (dataset[i]['data_samples'] for i in range(2))
    assert (len(red.gt_instances), len(red.ignored_instances)) == (1, 0)
    assert (len(green.gt_instances), len(green.ignored_instances)) == (0, 1)


def test_an_object_without_mask_counts_with_its_box_in_validation(
    scenes: Scenes, capsys: pytest.CaptureFixture[str]
) -> None:
    del scenes.content['val']['annotations'][1]['segmentation']
    scenes.save()
    found = scores(trained(scenes.config()))
    assert found['coco/bbox_mAP'] == found['coco/segm_mAP'] == 1
    assert found['coco/red_precision'] == found['coco/green_precision'] == 1
    said = capsys.readouterr().err
    assert 'val.json: box for a mask: 1 times, the evaluation of masks takes its box' in said


def test_the_area_that_is_supplied_is_that_of_the_mask_else_of_the_box(scenes: Scenes) -> None:
    first, second = scenes.content['val']['annotations']
    x, y, w, h = BOX
    first['segmentation'] = [[x, y, x + w, y, x, y + h]]
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[y : y + h, x : x + w // 4] = 1
    code = coco_mask.encode(np.asfortranarray(pixels))
    second['segmentation'] = dict(size=[SIZE, SIZE], counts=code['counts'].decode())
    boxed = dict(second, id=13)
    del boxed['segmentation']
    scenes.content['val']['annotations'].append(boxed)
    without('area')(scenes.content['val'])
    scenes.save()
    _, content = ready(scenes, 'val')
    assert [row['area'] for row in content['annotations']] == [w * h / 2, w * h / 4, w * h]


def test_classes_can_be_the_lines_of_a_file(scenes: Scenes) -> None:
    names = scenes.root / 'names.txt'
    names.write_text('red\ngreen\n')
    scenes.save()
    assert scores(trained(scenes.config(classes=str(names))))['coco/bbox_mAP'] == 1


def test_a_copy_that_cannot_be_written_is_named(
    scenes: Scenes, capsys: pytest.CaptureFixture[str]
) -> None:
    reverse(scenes.content['val'])
    scenes.save()
    work = scenes.root / 'work'
    work.mkdir()
    (work / 'annotations').write_text('no folder')
    said = refused(['train', scenes.config(), '--work-dir', str(work)], capsys)
    assert f'a copy of {scenes.files["val"]}, cannot be written' in said


# ---------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope='module')
def done(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    """A finished training; its work directory is ``work``."""
    scenes = Scenes(tmp_path_factory.mktemp('done'))
    scenes.save()
    trained(scenes.config())
    return scenes


def test_the_saved_config_names_the_files_of_the_user(scenes: Scenes) -> None:
    for content in scenes.content.values():
        reverse(content)
    scenes.save()
    saved = Config.fromfile(trained(scenes.config(val_classes=GREEN_RED)) / 'config.py')
    assert saved.train_dataloader.dataset.ann_file == 'train.json'
    assert saved.val_dataloader.dataset.ann_file == 'val.json'
    assert saved.val_dataloader.dataset.metainfo.classes == GREEN_RED
    assert saved.val_evaluator.ann_file == str(scenes.files['val'])


def test_a_test_takes_the_classes_in_the_order_of_the_checkpoint(
    done: Scenes, capfd: pytest.CaptureFixture[str]
) -> None:
    config = done.config('other', classes=GREEN_RED)
    work, checkpoint = done.root / 'tested', str(done.root / 'work/epoch_1.pth')
    assert main(['test', config, checkpoint, '--work-dir', str(work)]) == 0
    (path,) = work.glob('*/*.json')
    found = json.loads(path.read_text())
    assert found['coco/red_precision'] == found['coco/green_precision'] == 1
    said = capfd.readouterr().err
    assert 'in the order of the checkpoint, (red, green)' in said


AS_CLASSES = {
    'CocoDataset': 'mmdet.datasets',
    'LoadAnnotations': 'mmdet.datasets.transforms',
    'CocoMetric': 'mmdet.evaluation',
    'ValLoop': 'mmengine.runner',
    'TestLoop': 'mmengine.runner',
}


def test_a_config_with_classes_for_types_is_tested_and_dumped(done: Scenes) -> None:
    config = done.config('lazy', imports=AS_CLASSES)
    assert 'import CocoMetric' in Path(config).read_text()
    work, checkpoint = done.root / 'lazily', str(done.root / 'work/epoch_1.pth')
    assert main(['test', config, checkpoint, '--work-dir', str(work)]) == 0
    assert [path.name for path in work.glob('*.py')] == ['lazy_test.py']
    dumped = Config.fromfile(work / 'lazy_test.py')
    assert dumped.test_evaluator.type.endswith('CocoMetric')


def test_masks_that_a_step_given_as_a_class_loads_are_checked(
    scenes: Scenes, capsys: pytest.CaptureFixture[str]
) -> None:
    del scenes.content['train']['annotations'][1]['segmentation']
    scenes.save()
    config = Path(scenes.config('lazy', imports=AS_CLASSES))
    text = config.read_text()
    config.write_text(text.replace("default_scope = 'mmdet'", 'default_scope = None'))
    assert main(['check-data', str(config), '--split', 'train']) == 0
    assert '1 of 2 annotations have no segmentation' in capsys.readouterr().out


def test_inference_names_what_it_finds_as_it_was_trained(done: Scenes) -> None:
    config = done.config('other', classes=GREEN_RED)
    out, checkpoint = done.root / 'found', str(done.root / 'work/epoch_1.pth')
    images = [str(done.root / f'{name}.png') for name in RED_GREEN]
    assert main(['infer', config, checkpoint, *images, '--out-dir', str(out)]) == 0
    found = json.loads((out / 'predictions.json').read_text())
    names = {row['id']: row['name'] for row in found['categories']}
    assert [names[row['category_id']] for row in found['annotations']] == list(RED_GREEN)


def test_inference_takes_the_category_that_is_used_of_two_with_one_name(scenes: Scenes) -> None:
    for content in scenes.content.values():
        first_unused(content)
    scenes.save()
    config, out = scenes.config(), scenes.root / 'found'
    checkpoint = str(trained(config) / 'epoch_1.pth')
    assert (
        main(['infer', config, checkpoint, str(scenes.root / 'red.png'), '--out-dir', str(out)])
        == 0
    )
    found = json.loads((out / 'predictions.json').read_text())
    assert [row['category_id'] for row in found['annotations']] == [3]


def test_inference_refuses_a_checkpoint_of_another_number_of_classes(
    done: Scenes, capsys: pytest.CaptureFixture[str]
) -> None:
    config, checkpoint = done.config('other'), str(done.root / 'work/epoch_1.pth')
    words = ['--out-dir', str(done.root / 'none'), '--cfg-options', 'model.bbox_head.num_classes=5']
    assert main(['infer', config, checkpoint, str(done.root / 'red.png'), *words]) == 2
    said = capsys.readouterr().err
    assert f'model.bbox_head.num_classes=5, but {checkpoint} has 2 classes: red, green' in said


@pytest.mark.parametrize('how', ['resume', 'load_from'])
def test_no_training_goes_on_from_classes_in_another_order(
    how: str, done: Scenes, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(done.root / 'work/epoch_1.pth')
    resume = ['--resume', checkpoint]
    words = resume if how == 'resume' else ['--cfg-options', f'load_from={checkpoint}']
    config = done.config('other', classes=GREEN_RED, knows=GREEN_RED)
    assert main(['train', config, '--work-dir', str(done.root / how), *words]) == 2
    said = capsys.readouterr().err
    assert '(red, green)' in said
    assert '(green, red)' in said
    assert said.count('\n') == 1


def test_training_starts_from_a_checkpoint_of_other_classes(done: Scenes) -> None:
    root = Scenes(done.root / 'blue')
    for content in root.content.values():
        for row in content['categories']:
            row['name'] = f'dark {row["name"]}'
    root.save()
    checkpoint = f'load_from={done.root / "work/epoch_1.pth"}'
    dark = tuple(f'dark {name}' for name in RED_GREEN)
    trained(root.config(classes=dark), '--cfg-options', checkpoint)


# ------------------------------------------------------------------ what cannot be made right


def both_used(content: dict[str, Any]) -> None:
    content['categories'][1]['name'] = 'red'
    content['categories'].append(dict(id=9, name='green'))


def two_types(content: dict[str, Any]) -> None:
    content['images'][1]['id'] = '1'


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (both_used, "'red' is the name of 3 with 1 annotations, 4 with 1 annotations"),
        (two_types, "images have the ids '1' and 1"),
    ],
)
def test_what_is_ambiguous_stops_with_one_sentence(
    change: Callable[[dict[str, Any]], None],
    sentence: str,
    scenes: Scenes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for content in scenes.content.values():
        change(content)
    scenes.save()
    config = scenes.config()
    assert main(['check-data', config, '--split', 'train']) == 1
    assert sentence in capsys.readouterr().out
    assert main(['train', config, '--work-dir', str(scenes.root / 'work')]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count('\n') == 1


@pytest.mark.parametrize('command', ['train', 'check-data'])
@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(classes='red'), "a comma is missing, classes=('red',)"),
        (dict(classes=('red', 'green', 'red')), "has 'red' twice"),
        (dict(val_classes=('green', 'blue')), 'they are not the same'),
    ],
    ids=['text', 'twice', 'other classes'],
)
def test_classes_that_mean_nothing_or_two_things_are_refused(
    command: str,
    options: dict[str, Any],
    sentence: str,
    scenes: Scenes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scenes.content['val']['categories'].append(dict(id=5, name='blue'))
    scenes.save()
    assert sentence in refused([command, scenes.config(**options)], capsys)


@pytest.mark.parametrize('command', ['train', 'check-data'])
def test_a_folder_given_as_text_is_refused(
    command: str, scenes: Scenes, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes.save()
    words = ['--cfg-options', 'train_dataloader.dataset.data_prefix=images']
    said = refused([command, scenes.config(), *words], capsys)
    assert "data_prefix='images' must be a dict, data_prefix=dict(img='images')" in said


# ------------------------------------------------------------------ with mmdet's own tools


@pytest.mark.parametrize(
    ('change', 'options', 'said'),
    [
        (reverse, {}, 'its categories are green, red, the classes red, green'),
        (first_unused, {}, "'red' is the name of categories 0, 3"),
        (without('iscrowd'), {}, 'val.json: 2 of 2 annotations have no iscrowd'),
        (None, dict(val_classes=GREEN_RED), 'are green, red, those of the training data red'),
        (None, dict(classes='redgreen'), "a comma is missing, classes=('redgreen',)"),
    ],
    ids=['order', 'root category', 'no iscrowd', 'validation', 'text'],
)
def test_what_only_a_copy_puts_right_stops_a_training_that_reads_the_files(
    change: Callable[[dict[str, Any]], None] | None,
    options: dict[str, Any],
    said: str,
    scenes: Scenes,
) -> None:
    for content in scenes.content.values():
        if change is not None:
            change(content)
    scenes.save()
    runner = built_by_mmengine(scenes.config(**options))
    with pytest.raises(PreflightError) as raised:
        before_train(runner)
    assert said in str(raised.value)


def test_what_a_metric_inside_an_evaluator_reads_stops_a_training(scenes: Scenes) -> None:
    without('iscrowd')(scenes.content['val'])
    scenes.save()
    metric = dict(type='CocoMetric', ann_file=str(scenes.files['val']), metric='bbox')
    evaluator = dict(type='Evaluator', metrics=[metric])
    config = Path(scenes.config())
    config.write_text(f'{config.read_text()}val_evaluator = {evaluator!r}\n')
    with pytest.raises(PreflightError, match='have no iscrowd'):
        before_train(built_by_mmengine(str(config)))


def test_what_no_metric_reads_stops_no_training(scenes: Scenes) -> None:
    for change in (without('iscrowd'), text('annotations', 'id')):
        change(scenes.content['val'])
    scenes.save()
    own_truth = dict(type='CocoMetric', metric='bbox')  # that of the dataset
    before_train(built_by_mmengine(scenes.config(masks=False), val_evaluator=[own_truth]))


def before_train(runner: Runner) -> None:
    for loop in ('train_loop', 'val_loop'):
        getattr(runner, loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    PreflightHook().before_train(runner)


def built_by_mmengine(config: str, **more: Any) -> Runner:
    """As mmdet's tools do."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(dict(work_dir=str(Path(config).with_name('work')), **more))
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize('classes', [RED_GREEN, GREEN_RED])
def test_a_test_that_reads_the_files_stops_at_another_order(classes: Any, scenes: Scenes) -> None:
    """In the file with the first of these, in the checkpoint with the other."""
    if classes == RED_GREEN:
        reverse(scenes.content['val'])
    scenes.save()
    checkpoint = str(trained(scenes.config()) / 'epoch_1.pth')
    hooks = [dict(type='vitbackbones.PreflightHook')]
    config = scenes.config('other', classes=classes)
    if classes == GREEN_RED:
        reverse(scenes.content['val'])  # as the classes are, but the weights know better
        scenes.save()
    with pytest.raises(PreflightError, match='the test cannot start') as raised:
        built_by_mmengine(config, load_from=checkpoint, custom_hooks=hooks).test()
    expected = 'categories are green, red' if classes == RED_GREEN else 'those of the checkpoint'
    (problem,) = raised.value.problems
    assert expected in problem
