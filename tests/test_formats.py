"""Folders that people have: what is made of each format, and what is said of wrong ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from vitbackbones.data.annotations import read_coco
from vitbackbones.data.before_training import check_annotations
from vitbackbones.data.images import check_image
from vitbackbones.errors import UserError
from vitbackbones.formats.class_list import read_class_list
from vitbackbones.formats.folder import read_folder
from vitbackbones.formats.own_data import OwnData, Split
from vitbackbones.formats.splitting import Item, choose_validation

from . import own_data

WIDTH, HEIGHT = 64, 48
CLASSES = ('cat', 'dog')
NUMBERS = {'train': 12, 'val': 5}
Objects = dict[str, list[tuple[Any, ...]]]


def draw(path: Path, number: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """An image unlike those of other numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data in the layout of :mod:`tests.own_data`: two objects of three in each image."""
    root = tmp_path_factory.mktemp('source')
    number = 0
    for split, images in NUMBERS.items():
        content: dict[str, Any] = dict(images=[], annotations=[])
        content['categories'] = [dict(id=i, name=n) for i, n in enumerate(CLASSES, start=1)]
        (root / 'labels' / split).mkdir(parents=True)
        for _ in range(images):
            number += 1
            name = f'a picture {number}.jpg'
            draw(root / split / name, number)
            content['images'].append(dict(id=number, file_name=name, width=WIDTH, height=HEIGHT))
            labels = np.zeros((HEIGHT, WIDTH), np.uint8)
            for place in range(2):
                x, y, w, h = 3 + 30 * place, number % 7 + 2, 20 + number % 5, 30
                content['annotations'].append(
                    dict(
                        id=len(content['annotations']) + 1,
                        image_id=number,
                        category_id=1 + (number + place) % 2,
                        bbox=[x, y, w, h],
                        area=w * h / 2,
                        iscrowd=0,
                        segmentation=[[x, y, x + w, y, x, y + h]],
                    )
                )
                labels[y : y + h, x : x + w] = 1 + (number + place) % 2
            Image.fromarray(labels).save(root / 'labels' / split / f'a picture {number}.png')
        path = root / 'annotations' / f'instances_{split}.json'
        own_data.write(path, [json.dumps(content)])
    return root


@pytest.fixture
def made(source: Path, tmp_path: Path) -> Callable[..., Path]:
    """The data in another format, to be changed."""

    def make(form: str, **options: Any) -> Path:
        out = tmp_path / 'data'
        convert = getattr(own_data, form, None) or own_data.FORMATS[form]
        convert(source, out, **options)
        return out

    return make


@pytest.fixture
def beside(source: Path, tmp_path: Path) -> Path:
    """Images in one folder, without annotations."""
    shutil.copytree(source / 'train', tmp_path / 'data')
    return tmp_path / 'data'


def into(folder: Path) -> Path:
    return folder.parent / 'my_data'


def read(folder: Path, **options: Any) -> OwnData:
    """Read a folder, and see that nothing is changed in it, and what is written is right."""
    before = snapshot(folder)
    data = read_folder(folder, into(folder), **options)
    assert snapshot(folder) == before
    assert not [path for path in folder.parent.iterdir() if path.name.startswith('.')]
    assert data.written == (into(folder) if into(folder).exists() else None)
    images = {'.jpg', '.jpeg', '.bmp'}
    assert not [p for p in into(folder).rglob('*') if p.suffix in images]
    assert len(data.palette) == len(data.classes)
    assert len({*data.palette}) == len(data.palette)
    for split in data.splits.values():
        assert split.number > 0
    checked(data)
    return data


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob('*')}


def config(data: OwnData) -> Config:
    """A config that reads the data."""
    values: dict[str, Any] = dict(default_scope='mmdet', model=dict(type='Model'))
    for split, own in data.splits.items():
        if data.task == 'labels':
            values['default_scope'] = 'mmseg'
            dataset: dict[str, Any] = dict(
                type='BaseSegDataset',
                data_prefix=dict(img_path=str(own.images), seg_map_path=str(own.annotations)),
                img_suffix=data.image_suffix,
                seg_map_suffix=data.label_suffix,
                ann_file='' if own.names is None else str(own.names),
                pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
            )
        else:
            masks = data.task == 'masks'
            load = dict(type='LoadAnnotations', with_bbox=True, with_mask=masks)
            dataset = dict(
                type='CocoDataset',
                ann_file=str(own.annotations),
                data_prefix=dict(img=f'{own.images}/'),
                pipeline=[dict(type='LoadImageFromFile'), load],
            )
        dataset['metainfo'] = dict(classes=data.classes, palette=data.palette)
        values[f'{split}_dataloader'] = dict(dataset=dataset)
    return Config(values)


def checked(data: OwnData) -> None:
    """Training has nothing against it, and what was written has nothing that it copes with."""
    check_annotations(config(data), [*data.splits])
    if data.task == 'labels':
        return
    for split in data.splits.values():
        found = read_coco(split.annotations, data.classes, masks=data.task == 'masks', test=True)
        if data.written and data.written in split.annotations.parents:
            assert found.findings == ()
        for name, width, height in found.sizes:
            kinds = {f.kind for f in check_image(str(split.images / name), (width, height))}
            assert not kinds & {'another size', 'missing file', 'unreadable image'}


def objects(split: Split, key: str = 'bbox') -> Objects:
    """By the name of an image: class and coordinates of its objects."""
    content = json.loads(split.annotations.read_text())
    names = {row['id']: row['name'] for row in content['categories']}
    found: Objects = {Path(row['file_name']).name: [] for row in content['images']}
    files = {row['id']: Path(row['file_name']).name for row in content['images']}
    for row in content['annotations']:
        values = row[key] if key == 'bbox' else row[key][0]
        found[files[row['image_id']]].append((names[row['category_id']], *map(float, values)))
    return {name: sorted(rows) for name, rows in found.items()}


def assert_equal(found: Objects, expected: Objects, tolerance: float = 0) -> None:
    assert {*found} == {*expected}
    for name, rows in expected.items():
        assert [row[0] for row in found[name]] == [row[0] for row in rows]
        for row, other in zip(found[name], rows, strict=True):
            assert row[1:] == pytest.approx(other[1:], rel=0, abs=tolerance)


def original(source: Path, split: str, key: str = 'bbox') -> Objects:
    own = Split(source / split, source / 'annotations' / f'instances_{split}.json', 0)
    return objects(own, key)


def both(source: Path, key: str = 'bbox') -> Objects:
    return original(source, 'train', key) | original(source, 'val', key)


# ------------------------------------------------------------------------------- boxes and masks


@pytest.mark.parametrize(
    ('form', 'options', 'tolerance'),
    [('yolo', {}, 0), ('yolo', dict(described=False), 0), ('voc', {}, 0)],
)
def test_boxes_classes_and_splits_survive(
    made: Callable[..., Path], source: Path, form: str, options: Any, tolerance: float
) -> None:
    data = read(made(form, **options))
    assert data.task == 'boxes'
    if options:
        assert data.classes == ('class_0', 'class_1')
        (said,) = [line for line in data.said if 'class_0 to class_1' in line]
        own_data.write(data.folder / 'classes.txt', CLASSES)
        data = read(data.folder, force=True)
    assert data.classes == CLASSES
    for split in ('train', 'val'):
        assert data.splits[split].number == NUMBERS[split]
        assert_equal(objects(data.splits[split]), original(source, split), tolerance)
    sizes = np.full((NUMBERS['train'], 2), (WIDTH, HEIGHT))
    np.testing.assert_array_equal(data.image_sizes, sizes)
    expected = [row[3:] for rows in original(source, 'train').values() for row in rows]
    np.testing.assert_allclose(
        sorted(map(tuple, data.objects[:, :2].round(2).tolist())), sorted(expected), atol=0.01
    )
    assert data.objects[:, 2].tolist() == sorted([*range(NUMBERS['train'])] * 2)


def test_polygons_are_kept(made: Callable[..., Path], source: Path) -> None:
    data = read(made('yolo', polygons=True))
    assert data.task == 'masks'
    for split in ('train', 'val'):
        found = objects(data.splits[split], 'segmentation')
        assert_equal(found, original(source, split, 'segmentation'), 1e-4)
        assert_equal(objects(data.splits[split]), original(source, split), 1e-4)


def test_coco_with_a_validation_split_is_read_where_it_is(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'data'
    shutil.copytree(source, folder)
    shutil.rmtree(folder / 'labels')
    data = read(folder)
    assert (data.task, data.classes, data.written) == ('masks', CLASSES, None)
    for split, own in data.splits.items():
        assert own.images == folder / split
        assert own.annotations == folder / 'annotations' / f'instances_{split}.json'
    assert read(folder, task='boxes').task == 'boxes'


def test_coco_in_one_file_is_split(made: Callable[..., Path], source: Path) -> None:
    folder = made('coco')
    data = read(folder)
    train, val = objects(data.splits['train']), objects(data.splits['val'])
    assert not {*train} & {*val}
    assert_equal(train | val, both(source))
    assert len(val) == round(0.2 * len(both(source)))
    for rows in (train, val):
        assert {row[0] for those in rows.values() for row in those} == {*CLASSES}
    first = {path.name: path.read_bytes() for path in into(folder).iterdir()}
    read(folder, force=True)
    assert {path.name: path.read_bytes() for path in into(folder).iterdir()} == first
    other = read(folder, force=True, seed=1)
    assert {*objects(other.splits['val'])} != {*val}


def test_equal_images_are_on_one_side(made: Callable[..., Path]) -> None:
    folder = made('yolo', described=False)
    for split in ('train', 'val'):
        for part in ('images', 'labels'):
            for file in sorted((folder / part / split).iterdir()):
                shutil.copy(file, folder / part / f'again {file.name}')
                file.rename(folder / part / file.name)
            (folder / part / split).rmdir()
    data = read(folder)
    train, val = (set(objects(data.splits[split])) for split in ('train', 'val'))
    assert train
    assert val
    for names in (train, val):
        assert {n for n in names if n.startswith('again')} == {
            f'again {n}' for n in names if not n.startswith('again')
        }


def test_images_in_two_splits_are_counted(made: Callable[..., Path]) -> None:
    folder = made('yolo')
    first = sorted((folder / 'images' / 'train').iterdir())[0]
    shutil.copy(first, folder / 'images' / 'val' / 'twin.jpg')
    (folder / 'labels' / 'val' / 'twin.txt').write_text('0 .5 .5 .5 .5\n')
    (said,) = [line for line in read(folder).said if 'too' in line]
    assert said.startswith('images of val that train has, too: 1')
    assert 'twin.jpg' in said


def test_a_test_split_is_one(made: Callable[..., Path]) -> None:
    folder = made('yolo')
    for part in ('images', 'labels'):
        shutil.copytree(folder / part / 'val', folder / part / 'test')
    data_yaml = folder / 'data.yaml'
    data_yaml.write_text(data_yaml.read_text() + 'test: images/test\n')
    assert [*read(folder).splits] == ['train', 'val', 'test']
    shutil.rmtree(folder / 'labels' / 'test')
    data = read(folder, force=True)
    assert [*data.splits] == ['train', 'val']
    assert any('none of the 5 images of test is annotated' in line for line in data.said)


def test_images_that_differ_in_the_middle_alone_are_two(made: Callable[..., Path]) -> None:
    folder = made('yolo')
    pixels = np.zeros((64, 64, 3), np.uint8)
    for split in ('train', 'val'):
        Image.fromarray(pixels).save(folder / 'images' / split / 'dark.bmp')
        (folder / 'labels' / split / 'dark.txt').write_text('0 .5 .5 .5 .5\n')
        pixels[32, 32] = 1
    assert not [line for line in read(folder).said if 'too' in line]


def test_one_pixel_of_a_large_image_is_an_object(made: Callable[..., Path]) -> None:
    folder = made('yolo')
    draw(folder / 'images/train/large.jpg', 0, (640, 480))
    share = f'{180.5 / 640:.6f} {328.5 / 480:.6f} {1 / 640:.6f} {1 / 480:.6f}'
    (folder / 'labels/train/large.txt').write_text(f'0 {share}\n')
    found = objects(read(folder).splits['train'])
    assert found['large.jpg'] == [('cat', 180, 328, 1, 1)]


def test_a_folder_too_many(made: Callable[..., Path], source: Path) -> None:
    folder = made('yolo', described=False)
    for part in ('images', 'labels'):
        for file in (folder / part / 'train').iterdir():
            own_data.copy(file, folder / part)
        shutil.rmtree(folder / part / 'train')
        # A name that would be one of a split, if it counted.
        shutil.move(folder / part, folder / 'test' / 'again' / part)
    (folder / '__MACOSX').mkdir()
    (folder / '.DS_Store').write_bytes(b'x')
    data = read(folder)
    assert [*data.splits] == ['train', 'val']
    assert {*objects(data.splits['val'])} == {*original(source, 'val')}


def test_exports_of_roboflow(source: Path, tmp_path: Path) -> None:
    """Folders train and valid, each with its annotations in it."""
    forms = tmp_path / 'forms'
    for ours, theirs in (('train', 'train'), ('val', 'valid')):
        content = own_data.load(source, ours)
        content['categories'] = [
            dict(id=0, name='pets', supercategory='none'),
            *(dict(row, supercategory='pets') for row in content['categories']),
        ]
        shutil.copytree(source / ours, forms / 'coco' / 'data' / theirs)
        own_data.write(
            forms / 'coco' / 'data' / theirs / '_annotations.coco.json', [json.dumps(content)]
        )
    data = read(forms / 'coco' / 'data')
    assert (data.classes, data.written) == (CLASSES, None)
    assert any('pets' in line for line in data.said)
    assert_equal(objects(data.splits['val']), original(source, 'val'))

    made = tmp_path / 'made'
    own_data.yolo(source, made)
    folder = forms / 'yolo' / 'data'
    for ours, theirs in (('train', 'train'), ('val', 'valid')):
        for part in ('images', 'labels'):
            shutil.copytree(made / part / ours, folder / theirs / part)
    own_data.write(
        folder / 'data.yaml',
        [
            *('train: ../train/images', 'val: ../valid/images', 'test: ../test/images'),
            f'names: {[*CLASSES]}',
        ],
    )
    own_data.write(folder / 'README.roboflow.txt', ['1 2 3 4 5'])
    assert_equal(objects(read(folder).splits['val']), original(source, 'val'), 1e-4)

    own_data.voc(source, made)
    folder = forms / 'voc' / 'data'
    for ours, theirs in (('train', 'train'), ('val', 'valid')):
        shutil.copytree(source / ours, folder / theirs)
        for image in (source / ours).iterdir():
            xml = made / 'VOCdevkit' / 'VOC2007' / 'Annotations' / f'{image.stem}.xml'
            shutil.copy(xml, folder / theirs)
    assert_equal(objects(read(folder).splits['val']), original(source, 'val'))


def test_yolo_with_lists_of_images(made: Callable[..., Path], source: Path) -> None:
    folder = made('yolo')
    for split in ('train', 'val'):
        names = [f'./images/{split}/{f.name}' for f in (folder / 'images' / split).iterdir()]
        own_data.write(folder / f'{split}.txt', names)
    own_data.write(
        folder / 'data.yaml', ['train: [train.txt]', 'val: val.txt', 'names: {0: cat, 1: dog}']
    )
    data = read(folder)
    for split in ('train', 'val'):
        assert_equal(objects(data.splits[split]), original(source, split), 1e-4)


def test_a_validation_that_is_the_training_once_more_is_none(made: Callable[..., Path]) -> None:
    """As in the small samples of COCO that come with YOLO."""
    folder = made('yolo')
    path = folder / 'data.yaml'
    path.write_text(path.read_text().replace('images/val', 'images/train'))
    data = read(folder)
    train, val = (objects(data.splits[split]) for split in ('train', 'val'))
    assert len(val) == round(0.2 * NUMBERS['train'])
    assert not {*train} & {*val}
    assert any('train once more' in line for line in data.said)


def test_yolo_with_lists_and_without_a_description(made: Callable[..., Path], source: Path) -> None:
    """As darknet has it: all images in one folder, and train.txt and valid.txt."""
    folder = made('yolo', described=False)
    for part in ('images', 'labels'):
        for split in ('train', 'val'):
            for file in (folder / part / split).iterdir():
                own_data.copy(file, folder / 'data')
        shutil.rmtree(folder / part)
    for split, name in (('train', 'train'), ('val', 'valid')):
        names = [f'data/{path.name}' for path in (source / split).iterdir()]
        own_data.write(folder / f'{name}.txt', names)
    own_data.write(folder / 'obj.names', CLASSES)
    data = read(folder)
    for split in ('train', 'val'):
        assert_equal(objects(data.splits[split]), original(source, split))


def test_what_was_written_into_the_folder_itself_is_none_of_it(
    made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made('yolo')
    monkeypatch.chdir(folder)
    first = read_folder(Path('.'), Path('my_data'))
    assert first.written == folder / 'my_data'
    assert read_folder(folder, folder / 'my_data', force=True).splits == first.splits


def test_labels_beside_images(beside: Path, made: Callable[..., Path], source: Path) -> None:
    yolo = beside.parent / 'yolo'
    own_data.yolo(source, yolo)
    for file in (yolo / 'labels' / 'train').iterdir():
        shutil.copy(file, beside)
    own_data.write(beside / 'obj.names', CLASSES)
    data = read(beside)
    found = objects(data.splits['train']) | objects(data.splits['val'])
    assert_equal(found, original(source, 'train'), 1e-4)


def test_pixels_of_voc_are_counted_from_0_where_one_is_0(made: Callable[..., Path]) -> None:
    folder = made('voc', listed=False)
    annotations = folder / 'VOCdevkit' / 'VOC2007' / 'Annotations'
    file = sorted(annotations.iterdir())[0]
    text = file.read_text()
    assert '<xmin>4</xmin>' in text
    file.write_text(text.replace('<xmin>4</xmin>', '<xmin>0</xmin>'))
    data = read(folder)
    assert any('counted from 0' in line for line in data.said)
    rows = objects(data.splits['train']) | objects(data.splits['val'])
    lefts = {row[1] for those in rows.values() for row in those}
    assert lefts == {0, 4, 34}


def test_difficult_objects_are_crowds(made: Callable[..., Path]) -> None:
    folder = made('voc')
    file = sorted((folder / 'VOCdevkit' / 'VOC2007' / 'Annotations').iterdir())[0]
    file.write_text(file.read_text().replace('</name>', '</name><difficult>1</difficult>', 1))
    splits = read(folder).splits.values()
    rows = [r for s in splits for r in json.loads(s.annotations.read_text())['annotations']]
    assert sum(row['iscrowd'] for row in rows) == 1


def test_sizes_are_those_of_images_turned_upright(made: Callable[..., Path]) -> None:
    folder = made('yolo', described=False)
    path = sorted((folder / 'images' / 'train').iterdir())[0]
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.load()
        image.save(path, exif=exif)
    data = read(folder)
    content = json.loads(data.splits['train'].annotations.read_text())
    sizes = {row['file_name']: (row['width'], row['height']) for row in content['images']}
    assert sizes.pop(path.name) == (HEIGHT, WIDTH)
    assert {*sizes.values()} == {(WIDTH, HEIGHT)}


def test_what_is_left_out_is_counted_and_named(made: Callable[..., Path], source: Path) -> None:
    folder = made('yolo')
    images, labels = folder / 'images' / 'train', folder / 'labels' / 'train'
    names = sorted(file.stem for file in images.iterdir())
    (labels / f'{names[0]}.txt').unlink()
    (images / f'{names[1]}.jpg').unlink()
    content = (images / f'{names[2]}.jpg').read_bytes()
    (images / f'{names[2]}.jpg').write_bytes(content[: len(content) // 2])
    (labels / f'{names[3]}.txt').write_text('0 .5 .5 .5 .5\n1 .9 .5 .4 .5\n1 .5 .5 0 .5\n')
    (labels / f'{names[4]}.txt').write_text('')
    data = read(folder)
    found = objects(data.splits['train'])
    assert f'{names[1]}.jpg' not in found
    assert f'{names[2]}.jpg' not in found
    assert found[f'{names[0]}.jpg'] == found[f'{names[4]}.jpg'] == []
    assert [row[0] for row in found[f'{names[3]}.jpg']] == ['cat', 'dog']
    assert found[f'{names[3]}.jpg'][1][1:] == pytest.approx((44.8, 12, 19.2, 24))
    for what, name in (
        ('images of train without labels', names[0]),
        ('files of labels without image', names[1]),
        ('images that cannot be read', names[2]),
        ('objects across the edge of their image', names[3]),
        ('objects without area or outside their image', names[3]),
    ):
        (line,) = [line for line in data.said if line.startswith(f'{what}: 1 (')]
        assert name in line


def test_coco_without_some_of_its_images(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'data'
    shutil.copytree(source, folder)
    shutil.rmtree(folder / 'labels')
    gone, other = sorted((folder / 'train').iterdir())[:2]
    gone.unlink()
    draw(other, 0, (32, 32))
    data = read(folder)
    expected = original(source, 'train')
    del expected[gone.name], expected[other.name]
    assert_equal(objects(data.splits['train']), expected)
    assert data.splits['val'].annotations.parent == folder / 'annotations'
    for what, name in (('images that are not there', gone), ('images of another size', other)):
        (line,) = [line for line in data.said if what in line]
        assert name.name in line


@pytest.mark.parametrize('image_id', [1000, 'x', [1]])
def test_objects_of_no_image_are_counted(made: Callable[..., Path], image_id: Any) -> None:
    folder = made('coco')
    path = folder / 'annotations.json'
    content = json.loads(path.read_text())
    content['annotations'][3]['image_id'] = image_id
    path.write_text(json.dumps(content))
    data = read(folder)
    assert 'objects of images that are not listed: 1 (4), left out' in data.said


def test_coco_from_another_machine(made: Callable[..., Path], source: Path) -> None:
    folder = made('coco')
    path = folder / 'annotations.json'
    content = json.loads(path.read_text())
    for row in content['images']:
        row['file_name'] = f'C:\\export\\{row["file_name"]}'
    path.write_text(json.dumps(content))
    data = read(folder)
    assert_equal(objects(data.splits['train']) | objects(data.splits['val']), both(source))


def test_a_class_without_objects_that_is_its_own_supercategory(
    made: Callable[..., Path],
) -> None:
    folder = made('coco')
    path = folder / 'annotations.json'
    content = json.loads(path.read_text())
    content['categories'].append(dict(id=3, name='person', supercategory='person'))
    path.write_text(json.dumps(content))
    assert read(folder).classes == (*CLASSES, 'person')


def test_masks_that_are_boxes_are_boxes(made: Callable[..., Path], source: Path) -> None:
    folder = made('coco')
    path = folder / 'annotations.json'
    content = json.loads(path.read_text())
    for row in content['annotations']:
        x, y, w, h = row['bbox']
        row['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    path.write_text(json.dumps(content))
    assert read(folder).task == 'boxes'


# ------------------------------------------------------------------------------------- label maps


def labels_of(data: OwnData) -> dict[str, np.ndarray]:
    """The label map of each image, as mmseg loads it."""
    from mmengine.registry import DATASETS, init_default_scope

    found = {}
    cfg = config(data)
    init_default_scope('mmseg')
    for split in data.splits:
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        assert len(dataset) == data.splits[split].number
        for row in dataset:
            found[Path(row['img_path']).name] = row['gt_seg_map']
            assert row['img'].shape[:2] == row['gt_seg_map'].shape
    return found


def expected_labels(source: Path, *splits: str) -> dict[str, np.ndarray]:
    return {
        f'{path.stem}.jpg': np.asarray(Image.open(path))
        for split in splits
        for path in (source / 'labels' / split).iterdir()
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert {*found} == {*expected}
    for name, labels in expected.items():
        np.testing.assert_array_equal(found[name], labels)


@pytest.mark.parametrize('form', ['index', 'palette', 'colours'])
def test_label_maps_become_indices(made: Callable[..., Path], source: Path, form: str) -> None:
    data = read(made(form))
    assert data.task == 'labels'
    assert (data.written is None) == (form != 'colours')
    assert len(data.classes) == 3
    assert_same(labels_of(data), expected_labels(source, 'train', 'val'))
    assert {split: own.number for split, own in data.splits.items()} == NUMBERS
    if form != 'index':
        assert data.palette == own_data.COLOURS[:3]
    if form == 'colours':
        assert data.classes == ('class0', 'class1', 'class2')


def test_label_maps_of_one_folder_are_split(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'data'
    shutil.copytree(source / 'train', folder / 'images')
    (folder / 'masks').mkdir()
    for path in (source / 'labels' / 'train').iterdir():
        shutil.copy(path, folder / 'masks' / f'{path.stem}_mask.png')
    own_data.write(folder / 'classes.txt', ['ground', *CLASSES])
    data = read(folder)
    assert (data.label_suffix, data.classes) == ('_mask.png', ('ground', *CLASSES))
    assert_same(labels_of(data), expected_labels(source, 'train'))
    assert data.splits['val'].number == round(0.2 * NUMBERS['train'])
    assert not list(into(folder).rglob('*.png'))


@pytest.mark.parametrize('suffix', ['', '_labels'])
def test_label_maps_beside_images(beside: Path, source: Path, suffix: str) -> None:
    for path in (source / 'labels' / 'train').iterdir():
        shutil.copy(path, beside / f'{path.stem}{suffix}.png')
    assert_same(labels_of(read(beside)), expected_labels(source, 'train'))


def test_label_maps_in_folders_whose_names_say_nothing(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'data'
    shutil.copytree(source / 'train', folder / 'one')
    shutil.copytree(source / 'labels' / 'train', folder / 'other')
    assert_same(labels_of(read(folder)), expected_labels(source, 'train'))


def test_label_maps_with_lists_as_voc_has_them(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'data'
    for split in ('train', 'val'):
        shutil.copytree(source / split, folder / 'JPEGImages', dirs_exist_ok=True)
        labels = source / 'labels' / split
        shutil.copytree(labels, folder / 'SegmentationClass', dirs_exist_ok=True)
        shutil.copytree(labels, folder / 'SegmentationObject', dirs_exist_ok=True)
        names = [path.stem for path in labels.iterdir()]
        own_data.write(folder / 'ImageSets' / 'Segmentation' / f'{split}.txt', names)
    own_data.write(
        folder / 'labelmap.txt', ['# name:colour', *(f'{n}:{i},0,0::' for i, n in enumerate('abc'))]
    )
    data = read(folder)
    assert_same(labels_of(data), expected_labels(source, 'train', 'val'))
    assert {split: own.number for split, own in data.splits.items()} == NUMBERS
    assert data.classes == ('a', 'b', 'c')


def test_label_maps_as_camvid_has_them(source: Path, tmp_path: Path) -> None:
    """Names that begin anew in each split, and lists of two paths in a line."""
    folder = tmp_path / 'data'
    for split in ('train', 'val'):
        lines = []
        for number, path in enumerate(sorted((source / 'labels' / split).iterdir())):
            image = folder / split / f'{number}.jpg'
            own_data.copy(source / split / f'{path.stem}.jpg', folder / split)
            (folder / split / f'{path.stem}.jpg').rename(image)
            own_data.copy(path, folder / f'{split}annot')
            (folder / f'{split}annot' / path.name).rename(
                folder / f'{split}annot' / f'{number}.png'
            )
            lines.append(f'/SegNet/{split}/{number}.png /SegNet/{split}annot/{number}.png')
        own_data.write(folder / f'{split}.txt', lines)
    data = read(folder)
    for split, own in data.splits.items():
        assert (own.images, own.annotations) == (folder / split, folder / f'{split}annot')
        assert own.number == NUMBERS[split]


def test_label_maps_of_0_and_255_get_a_background(made: Callable[..., Path], source: Path) -> None:
    folder = made('index')
    for path in (folder / 'ann_dir').rglob('*.png'):
        Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255).save(path)
    data = read(folder)
    assert data.classes == ('background', 'foreground')
    expected = expected_labels(source, 'train', 'val')
    assert_same(labels_of(data), {name: labels > 0 for name, labels in expected.items()})


def test_indices_saved_as_grey_colours(made: Callable[..., Path], source: Path) -> None:
    folder = made('index')
    for path in (folder / 'ann_dir').rglob('*.png'):
        Image.open(path).convert('RGB').save(path)
    assert_same(labels_of(read(folder)), expected_labels(source, 'train', 'val'))


def test_values_that_a_list_gives_become_indices(made: Callable[..., Path], source: Path) -> None:
    folder = made('index')
    for path in (folder / 'ann_dir').rglob('*.png'):
        Image.fromarray(np.asarray(Image.open(path)) * 100).save(path)
    with pytest.raises(UserError, match='0, 100, 200, which are no indices'):
        read(folder)
    own_data.write(folder / '_classes.csv', ['Pixel Value, Class', '100, a', '0, ground', '200, b'])
    data = read(folder)
    assert data.classes == ('ground', 'a', 'b')
    assert_same(labels_of(data), expected_labels(source, 'train', 'val'))


def test_a_row_named_ignored_is_no_class(made: Callable[..., Path], source: Path) -> None:
    folder = made('colours')
    path = folder / 'class_dict.csv'
    path.write_text(path.read_text().replace('class0', 'ignored'))
    data = read(folder)
    assert data.classes == ('class1', 'class2')
    expected = expected_labels(source, 'train', 'val')
    assert_same(labels_of(data), {name: labels - np.uint8(1) for name, labels in expected.items()})


def test_images_of_two_suffixes(made: Callable[..., Path], source: Path) -> None:
    folder = made('index')
    first = sorted((folder / 'img_dir' / 'train').iterdir())[0]
    Image.open(first).save(first.with_suffix('.bmp'))
    first.unlink()
    expected = expected_labels(source, 'train', 'val')
    expected[f'{first.stem}.bmp'] = expected.pop(first.name)
    assert_same(labels_of(read(folder)), expected)


def test_label_maps_that_do_not_fit_are_left_out(made: Callable[..., Path]) -> None:
    folder = made('index')
    images, labels = folder / 'img_dir' / 'train', folder / 'ann_dir' / 'train'
    names = sorted(path.stem for path in images.iterdir())
    (labels / f'{names[0]}.png').unlink()
    (images / f'{names[1]}.jpg').unlink()
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(labels / f'{names[2]}.png')
    (labels / f'{names[3]}.png').write_bytes(b'no image')
    data = read(folder)
    assert {Path(name).stem for name in labels_of(data)} & {*names} == {*names[4:]}
    for what, name in (
        ('images without label map', names[0]),
        ('label maps without image', names[1]),
        ('label maps of another size than their image', names[2]),
        ('label maps that cannot be read', names[3]),
    ):
        (line,) = [line for line in data.said if line.startswith(f'{what}: 1 (')]
        assert name in line


@pytest.mark.parametrize(
    ('name', 'lines', 'expected'),
    [
        ('a.txt', ['cat', '', 'big dog'], [('cat', None, None), ('big dog', None, None)]),
        ('a.txt', ['# label:color', 'cat:1,2,3::'], [('cat', (1, 2, 3), None)]),
        ('a.txt', ['64 128 64\tcat'], [('cat', (64, 128, 64), None)]),
        ('a.csv', ['name,r,g,b', 'cat,1,2,3'], [('cat', (1, 2, 3), None)]),
        ('a.csv', ['Pixel Value, Class', '4, cat'], [('cat', None, 4)]),
        ('a.csv', ['cat,4'], [('cat', None, 4)]),
        ('a.json', ['["cat", "dog"]'], [('cat', None, None), ('dog', None, None)]),
        ('a.json', ['{"cat": [1, 2, 3]}'], [('cat', (1, 2, 3), None)]),
        ('a.json', ['[{"name": "cat", "color": [1, 2, 3]}]'], [('cat', (1, 2, 3), None)]),
        ('a.json', ['{"0": "cat"}'], [('cat', None, 0)]),
        ('a.yaml', ['names: [cat, dog]'], [('cat', None, None), ('dog', None, None)]),
    ],
)
def test_lists_of_classes(tmp_path: Path, name: str, lines: list[str], expected: Any) -> None:
    own_data.write(tmp_path / name, lines)
    assert [*map(tuple, read_class_list(tmp_path / name))] == expected


# ------------------------------------------------------------------------------------- splitting


def items(labels: list[set[int]], contents: str = '') -> list[Item]:
    return [
        Item(f'{place}.jpg', (contents[place] if contents else str(place)).encode(), those)
        for place, those in enumerate(labels)
    ]


def test_every_class_is_on_both_sides_where_it_can_be() -> None:
    rng = np.random.default_rng(0)
    labels = [{int(label) for label in rng.integers(0, 40, 3)} for _ in range(200)]
    labels += [{40}, {41}, {41}]
    validates = choose_validation(items(labels), seed=0)
    train = [those for those, val in zip(labels, validates, strict=True) if not val]
    val = [those for those, val in zip(labels, validates, strict=True) if val]
    assert set.union(*train) == {*range(42)}
    assert set.union(*val) == {*range(42)} - {40}
    assert 0.18 <= len(val) / len(labels) <= 0.25


def test_copies_stay_together() -> None:
    every = items([{0}] * 9, 'aabbccdde')
    validates = choose_validation(every, seed=0)
    by_content: dict[bytes, set[bool]] = {}
    for item, val in zip(every, validates, strict=True):
        by_content.setdefault(item.digest, set()).add(val)
    assert all(len(sides) == 1 for sides in by_content.values())
    assert sum(validates) in (1, 2)


def test_copies_that_roboflow_made_stay_together() -> None:
    names = [f'd/{i // 3}_jpg.rf.{i:032x}.jpg' for i in range(30)]
    every = [Item(name, name.encode(), {0}) for name in names]
    validates = choose_validation(every, seed=0)
    assert sum(validates) == 6
    assert all(len({*validates[i : i + 3]}) == 1 for i in range(0, 30, 3))


def test_the_choice_depends_on_content_alone() -> None:
    every = items([{0}, {1}] * 10)
    validates = choose_validation(every, seed=3)
    renamed = [item._replace(path=f'x{item.path}') for item in reversed(every)]
    assert choose_validation(renamed, seed=3) == validates[::-1]


# ---------------------------------------------------------------------------------- wrong folders


def refused(folder: Path, *parts: str, **options: Any) -> None:
    """Reading ends in one sentence that has these parts, and nothing is written."""
    before = snapshot(folder.parent)
    with pytest.raises(UserError) as error:
        read_folder(folder, into(folder), **options)
    said = str(error.value)
    assert [part for part in parts if part not in said] == [], said
    assert '\n' not in said
    assert snapshot(folder.parent) == before


def test_folders_without_a_format(tmp_path: Path, beside: Path) -> None:
    refused(tmp_path / 'nowhere', 'nowhere', 'not there')
    (tmp_path / 'file').write_text('')
    refused(tmp_path / 'file', 'a file, not a folder')
    (tmp_path / 'empty').mkdir()
    refused(tmp_path / 'empty', 'is empty')
    (beside / 'notes.json').write_text('{"shapes": []}')
    refused(
        beside, 'no known format', '12 .jpg', 'notes.json', 'COCO JSON', 'YOLO', 'Pascal VOC',
        'label maps',
    )  # fmt: skip
    refused(beside, 'no known format', 'Pascal VOC', form='voc')
    refused(beside, '--format coco', 'label maps', form='coco', task='labels')


def test_two_formats_at_once(source: Path, made: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / 'both'
    shutil.copytree(source, folder)
    parts = ('COCO JSON', 'instances_train.json', 'label maps', 'labels/train', '--format')
    refused(folder, *parts)
    assert read(folder, form='coco').task == 'masks'
    assert read(folder, form='label-maps').task == 'labels'
    assert read(folder, task='labels').task == 'labels'
    other = made('yolo')
    own_data.voc(source, other)
    refused(other, 'YOLO', 'labels/train', 'Pascal VOC', '.xml')


def test_what_is_there_is_not_overwritten(made: Callable[..., Path]) -> None:
    folder = made('yolo')
    into(folder).mkdir()
    refused(folder, str(into(folder)), '--force')
    shutil.rmtree(into(folder))
    read(folder)
    before = {path for path in into(folder).rglob('*') if path.is_file()}
    read(folder, force=True)
    assert {path for path in into(folder).rglob('*') if path.is_file()} == before
    (into(folder) / 'train/notes.txt').parent.mkdir(exist_ok=True)
    (into(folder) / 'train/notes.txt').write_text('mine')
    refused(folder, 'train/notes.txt', 'move it elsewhere', force=True)
    assert (into(folder) / 'train/notes.txt').read_text() == 'mine'


def test_a_link_to_what_was_written_is_not_replaced(made: Callable[..., Path]) -> None:
    folder = made('yolo')
    read(folder)
    into(folder).rename(folder.parent / 'elsewhere')
    into(folder).symlink_to(folder.parent / 'elsewhere')
    refused(folder, str(into(folder)), 'remove it', force=True)
    assert into(folder).is_symlink()


def put(path: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        own_data.write(folder / path, [text])

    return change


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = sorted(folder.glob(path))[0]
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


def empty(path: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for file in folder.glob(path):
            file.unlink()

    return change


def flatten(folder: Path) -> None:
    for file in folder.glob('labels/val/*'):
        rows = [line.split()[:4] for line in file.read_text().splitlines()]
        file.write_text(''.join(f'{" ".join(row)} 0\n' for row in rows))


def soften(folder: Path) -> None:
    draw(folder / 'ann_dir/train/a picture 1.png', 0)


LABELS = 'labels/train/a picture 1.txt'
XML = 'VOCdevkit/VOC2007/Annotations/a picture 1.xml'
COCO = '{"images": [], "annotations": [], "categories": []}'
MIXED = ('have masks', 'have none', '--head')
LISTED = 'VOCdevkit/VOC2007/ImageSets/Main/val.txt'


@pytest.mark.parametrize(
    ('form', 'change', 'parts'),
    [
        ('yolo', put(LABELS, '5 .5 .5 .5 .5'), (LABELS, 'line 1', 'the class 5', 'data.yaml')),
        ('yolo', put(LABELS, '0 .5 .5 .5'), (LABELS, '4 numbers', '5 for a box')),
        ('yolo', put(LABELS, '0 .5 .5 .5 .5 .9'), (LABELS, '6 numbers')),
        ('yolo', put(LABELS, '0 20 20 10 10'), (LABELS, 'the coordinate 20', 'shares')),
        ('yolo', put(LABELS, '0 .5 nan .5 .5'), (LABELS, 'nan')),
        ('yolo', put(LABELS, '0 .5 x .5 .5'), (LABELS, 'not all numbers')),
        ('yolo', put(LABELS, '0.5 .5 .5 .5 .5'), (LABELS, 'the class 0.5')),
        ('yolo', put(LABELS, '0 .1 .1 .5 .5 .9 .1'), (LABELS, 'polygons', 'boxes', '--head')),
        ('yolo', put('data.yaml', 'names: [cat, dog]\ntrain: nowhere'), ('train', 'nowhere')),
        ('yolo', put('data.yaml', 'names: [cat\ntrain: x'), ('data.yaml', 'cannot be read')),
        ('yolo', edit('data.yaml', 'nc: 2', 'nc: 3'), ('data.yaml', 'nc=3', 'names has 2')),
        ('yolo', put('other.yaml', 'names: [a]\ntrain: images'), ('data.yaml', 'other.yaml')),
        ('yolo', edit('data.yaml', 'val: images/val', 'val: labels'), ('val', 'no images')),
        ('yolo', empty('labels/val/*'), ('no object is left', 'val')),
        ('yolo', flatten, ('no object is left', 'val', 'objects without area', ': 10 (')),
        ('voc', lambda folder: (folder / 'VOCdevkit/val').mkdir(), ()),
        ('index', lambda folder: (folder / 'img_dir/test').mkdir(), ('img_dir/test is empty',)),
        ('voc', edit(XML, '<width>64</width>', ''), (XML, 'no size', '<width>')),
        ('voc', edit(XML, '<width>64<', '<width>0<'), (XML, 'the size 0 x 48')),
        ('voc', edit(XML, '</annotation>', ''), (XML, 'cannot be read')),
        ('voc', edit(XML, '<xmin>4</xmin>', ''), (XML, 'object 1', 'bndbox')),
        ('voc', edit(XML, '<name>', '<name> '), ()),
        ('voc', put('classes.txt', 'cat'), ('the class dog', 'classes.txt')),
        ('voc', put(LISTED, 'nothing'), ('val.txt', 'none of its 1 images')),
        ('coco', put('annotations.json', COCO[1:]), ('annotations.json', 'cannot be read')),
        ('coco', edit('annotations.json', 'a picture', 'another'), ('none of them is in',)),
        ('coco', edit('annotations.json', '"segmentation"', '"s"'), ()),
        ('coco', edit('annotations.json', '"segmentation": [[3, 3,', '"no": [[3, 3,'), MIXED),
        ('coco', put('more.json', COCO), ('annotations.json', 'does not say')),
        ('index', put('classes.txt', 'ground\ncat'), ('the value 2', 'classes.txt has 2 classes')),
        ('index', put('classes.csv', 'a,0\nb,1'), ('the value 2', 'not in', 'classes.csv')),
        ('index', put('classes.csv', 'a,0\nb,0'), ('classes.csv', 'the value 0')),
        ('index', put('classes.txt', 'a\na\nb'), ('classes.txt', 'the name a')),
        ('index', put('classes.csv', 'a,0,1'), ('classes.csv', 'a,0,1')),
        ('colours', edit('class_dict.csv', '220,60', '220,61'), ('(220, 60, 40)', 'class_dict')),
        ('colours', empty('class_dict.csv'), ('colours such as', '--classes')),
        ('colours', soften, ('a picture 1.png', 'more than 300 colours')),
        ('colours', put('classes.txt', 'a\nb\nc'), ('class_dict.csv', 'classes.txt', '--classes')),
    ],
)  # fmt: skip
def test_wrong_folders(
    made: Callable[..., Path], form: str, change: Callable[[Path], None], parts: tuple[str, ...]
) -> None:
    folder = made(form)
    change(folder)
    if parts:
        refused(folder, *parts)
    else:
        read(folder)


def test_a_class_list_that_is_named(made: Callable[..., Path], source: Path) -> None:
    folder = made('yolo', described=False)
    names = folder.parent / 'names.txt'
    own_data.write(names, CLASSES)
    assert read(folder, classes=names).classes == CLASSES
    own_data.write(names, ['cat'])
    refused(folder, 'the class 1', force=True, classes=names)
    folder = folder.parent / 'coco' / 'data'
    own_data.coco(source, folder)
    own_data.write(names, ['bird'])
    refused(folder, 'bird', 'cat, dog', classes=names)
    own_data.write(names, ['dog'])
    data = read(folder, classes=names)
    assert data.classes == ('dog',)
    assert {row[0] for rows in objects(data.splits['train']).values() for row in rows} == {'dog'}


def test_one_image_cannot_be_split(made: Callable[..., Path], source: Path) -> None:
    folder = made('yolo', described=False)
    files = [*(folder / 'images').rglob('*.jpg'), *(folder / 'labels').rglob('*.txt')]
    for path in files:
        if path.stem != 'a picture 1':
            path.unlink()
    for part in ('images', 'labels'):
        (folder / part / 'val').rmdir()
    refused(folder, '1 image cannot be split')
