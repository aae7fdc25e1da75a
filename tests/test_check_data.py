"""Bad data: that they are reported before training, and what training does with each kind."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader

from vitbackbones.cli.main import main
from vitbackbones.data.annotations import read_coco
from vitbackbones.data.configs import check_files_as_they_come
from vitbackbones.data.findings import KINDS
from vitbackbones.data.loading import DataError, annotation_problems
from vitbackbones.data.masks import run_lengths
from vitbackbones.data.survey import CHUNK
from vitbackbones.launch.loading import load_config

HEIGHT, WIDTH = 48, 64
NAMES = ('a.jpg', 'b.png', 'c.jpg')
Change = Callable[[dict[str, Any]], Any]


def pixels(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 5, columns * 3, rows + columns], 2).astype(np.uint8)  # (H, W, 3)


def write_config(path: Path, dataset: dict[str, Any], **rest: Any) -> str:
    values = dict(
        model=dict(type='Model'),
        train_dataloader=dict(dataset=dataset),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW')),
        **rest,
    )
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in values.items()))
    return str(path)


# ------------------------------------------------------------------------------ detection


class Coco:
    """A small dataset in COCO's format; ``content`` is its annotation file, to be changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / 'annotations.json'
        (root / 'images').mkdir()
        images, annotations = [], []
        for i, name in enumerate(NAMES):
            Image.fromarray(pixels()).save(self.image(name))
            images.append(dict(id=i + 1, file_name=name, width=WIDTH, height=HEIGHT))
            polygon = [[4, 4, 24, 4, 24, 20, 4, 20]]
            annotations.append(
                dict(
                    id=i + 11,
                    image_id=i + 1,
                    category_id=(7, 7, 9)[i],
                    bbox=[4, 4, 20, 16],
                    area=320,
                    iscrowd=0,
                    segmentation=polygon,
                )
            )
        categories = [dict(id=7, name='cat'), dict(id=9, name='dog')]
        self.content = dict(images=images, annotations=annotations, categories=categories)
        self.save()
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=(WIDTH, HEIGHT), keep_ratio=True),
            dict(type='PackDetInputs'),
        ]
        dataset = dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file='annotations.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=('cat', 'dog')),
            pipeline=pipeline,
        )
        self.config = write_config(root / 'config.py', dataset)

    def image(self, name: str) -> Path:
        return self.root / 'images' / name

    def save(self, change: Change | None = None) -> None:
        if change:
            change(self.content)
        self.file.write_text(json.dumps(self.content))


@pytest.fixture
def coco(tmp_path: Path) -> Coco:
    return Coco(tmp_path)


def check(config: str, *words: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """Exit status, and files and details by kind."""
    out = Path(config).with_name('found.json')
    status = main(['check-data', config, '--split', 'train', '--out', str(out), *words])
    found: dict[str, list[tuple[str, str]]] = {}
    for source in json.loads(out.read_text()):
        for finding in source['findings']:
            assert finding['error'] == KINDS[finding['kind']].error
            found.setdefault(finding['kind'], []).append((finding['file'], finding['detail']))
    return status, found


def training_data(config: str) -> Any:
    """The dataset that ``vitbackbones train`` makes of a config."""
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    check_files_as_they_come(cfg, ('train',))
    return DATASETS.build(cfg.train_dataloader.dataset)


@pytest.mark.parametrize('words', [[], ['--images'], ['--images', '--jobs', '1']])
def test_nothing_is_said_of_good_detection_data(
    words: list[str], coco: Coco, capfd: pytest.CaptureFixture[str]
) -> None:
    assert check(coco.config, *words) == (0, {})
    assert capfd.readouterr().out == (
        f'train: {coco.file}: 3 images, 3 annotations\n'
        '  images used: 3\n'
        '  objects used: 3\n'
        '  class  objects  images\n'
        '  cat          2       2\n'
        '  dog          1       1\n'
        '0 errors, 0 warnings\n'
    )


def of(key: str, number: int = 0, **values: Any) -> Change:
    return lambda content: content[key][number].update(values)


def without(key: str, field: str) -> Change:
    return lambda content: content[key][1].pop(field)


def twice(key: str) -> Change:
    return lambda content: content[key].append(copy.deepcopy(content[key][0]))


def runs(*counts: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Change:
    return of('annotations', segmentation=dict(size=list(size), counts=list(counts)))


def compressed(text: str) -> Change:
    return of('annotations', segmentation=dict(size=[HEIGHT, WIDTH], counts=text))


def encoded(height: int, width: int) -> str:
    """Run lengths, as pycocotools compresses them, of a mask that is 1 in its upper half."""
    mask = np.arange(height)[:, None] < np.full(width, height / 2)  # (H, W)
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))['counts'].decode()


NAN = float('nan')
ANNOTATION_ERRORS = {
    'NaN': (of('annotations', bbox=[NAN, 4, 20, 16]), 'box not finite', 'annotation 11 of a.jpg'),
    'infinite': (of('annotations', bbox=[4, 4, float('inf'), 9]), 'box not finite', 'inf'),
    'three numbers': (of('annotations', bbox=[4, 4, 20]), 'box not finite', '[4, 4, 20]'),
    'NaN area': (of('annotations', area=NAN), 'box not finite', 'annotation 11'),
    'category': (of('annotations', category_id=8), 'unknown category', 'category_id 8'),
    'no category': (lambda c: c['categories'].pop(), 'class without category', 'no class dog; its'),
    'same annotation id': (twice('annotations'), 'duplicate id', '2 annotations have the id 11'),
    'same image id': (twice('images'), 'duplicate id', '2 images have the id 1'),
    'same category id': (twice('categories'), 'duplicate id', '2 categories have the id 7'),
    'no box': (without('annotations', 'bbox'), 'missing field', '(id 12) has no bbox'),
    'no width': (without('images', 'width'), 'missing field', '(id 2) has no width'),
    'no name': (without('images', 'file_name'), 'missing field', '(id 2) has no file_name'),
    'huge box': (of('annotations', bbox=[4, 4.5, 10**400, 16]), 'box not finite', 'annotation 11'),
    'huge polygon': (
        of('annotations', segmentation=[[10**400, 4.5, 24, 4, 24, 20]]),
        'bad mask',
        'annotation 11',
    ),
    'number for a name': (of('images', file_name=5), 'missing field', 'image 1 (5) has no name'),
    'huge width': (of('images', width=10**400), 'missing field', 'a.jpg) has the width'),
    'width 0': (of('images', width=0), 'missing field', 'a.jpg) has the width 0'),
    'RLE size': (runs(9, 3063, size=(64, 48)), 'mask of another size', '48 x 64 pixels'),
    'RLE sum': (runs(9, 9), 'mask of another size', 'add up to 18 pixels, not 3072'),
    'RLE counts': (runs(-1, 3073), 'bad mask', 'annotation 11 of a.jpg'),
    'compressed, sum too small': (
        compressed(encoded(20, 20)),
        'mask of another size',
        'add up to 400 pixels, not 3072',
    ),
    'compressed, sum too large': (
        compressed(encoded(HEIGHT + 1, WIDTH)),
        'mask of another size',
        'add up to 3136 pixels, not 3072',
    ),
    'compressed, empty': (compressed(''), 'bad mask', 'annotation 11 of a.jpg'),
    'compressed, cut off': (compressed(encoded(HEIGHT, WIDTH) + 'P'), 'bad mask', 'annotation 11'),
    'compressed, negative': (compressed('OQP3'), 'bad mask', 'no number of pixels'),
    'compressed, other characters': (
        compressed(encoded(HEIGHT, WIDTH) + 'p'),
        'bad mask',
        'annotation 11 of a.jpg',
    ),
    'compressed, not ASCII': (compressed('0\u0130'), 'bad mask', 'annotation 11 of a.jpg'),
    'compressed, endless run': (compressed('P' * 99_999 + '0'), 'bad mask', 'annotation 11'),
    'NaN polygon': (
        of('annotations', segmentation=[[NAN, 4, 24, 4, 24, 20]]),
        'bad mask',
        'no finite numbers',
    ),
    'no masks': (
        lambda c: [row.pop('segmentation') for row in c['annotations']],
        'no masks',
        'none of its 3 annotations has a segmentation',
    ),
    'no annotations': (
        lambda c: c['annotations'].clear(),
        'nothing left',
        'no annotation of its 3',
    ),
    'no images': (lambda c: (c['images'].clear(), c['annotations'].clear()), 'no images', 'no'),
}


@pytest.mark.parametrize('name', ANNOTATION_ERRORS)
def test_bad_annotations_are_reported_and_training_does_not_start(
    name: str, coco: Coco, capsys: pytest.CaptureFixture[str]
) -> None:
    change, kind, detail = ANNOTATION_ERRORS[name]
    coco.save(change)
    status, found = check(coco.config)
    assert status == 1
    assert [file for file, _ in found[kind]] == [str(coco.file)]
    assert detail in found[kind][0][1]
    capsys.readouterr()
    assert main(['train', coco.config, '--work-dir', str(coco.root / 'work')]) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert str(coco.file) in said


@pytest.mark.parametrize(
    ('content', 'reason'),
    [('', 'it is empty'), ('{"images": [', 'no JSON'), ('[]', 'holds a list'), ('{}', 'images')],
    ids=['empty', 'cut off', 'list', 'no lists'],
)
def test_a_file_that_holds_no_annotations_is_reported_and_training_does_not_start(
    content: str, reason: str, coco: Coco, capsys: pytest.CaptureFixture[str]
) -> None:
    coco.file.write_text(content)
    status, found = check(coco.config)
    ((file, detail),) = found['unreadable annotation file']
    assert (status, file) == (1, str(coco.file))
    assert reason in detail
    capsys.readouterr()
    assert main(['train', coco.config, '--work-dir', str(coco.root / 'work')]) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert str(coco.file) in said


ANNOTATION_NOTES = {
    'outside': (of('annotations', bbox=[70, 4, 20, 16]), 'box outside', 0),
    'above': (of('annotations', bbox=[4, -30, 20, 16]), 'box outside', 0),
    'zero width': (of('annotations', bbox=[4, 4, 0, 16]), 'box without area', 0),
    'negative': (of('annotations', bbox=[4, 4, 20, -16]), 'box without area', 0),
    'zero area': (of('annotations', area=0), 'box without area', 0),
    'across': (of('annotations', bbox=[50, 4, 30, 16]), 'box across the edge', 1),
    'image': (of('annotations', image_id=99), 'unknown image', 0),
    'two points': (of('annotations', segmentation=[[4, 4, 9, 9]]), 'mask without area', 0),
}


@pytest.mark.parametrize('name', ANNOTATION_NOTES)
def test_what_training_leaves_out_or_cuts_is_noted(name: str, coco: Coco) -> None:
    change, kind, kept = ANNOTATION_NOTES[name]
    coco.save(change)
    status, found = check(coco.config)
    ((file, detail),) = found.pop(kind)
    assert (status, file, found) == (0, str(coco.file), {})
    assert 'annotation 11' in detail
    boxes = training_data(coco.config)[0]['data_samples'].gt_instances.bboxes
    assert len(boxes) == kept
    if kept:
        assert boxes.tensor.tolist() == [[50, 4, WIDTH, 20]]


def test_training_says_what_it_leaves_out(coco: Coco, capsys: pytest.CaptureFixture[str]) -> None:
    coco.save(of('annotations', bbox=[70, 4, 20, 16]))
    main(['train', coco.config, '--work-dir', str(coco.root / 'work')])  # there is no such model
    assert f'{coco.file}: box outside: 1 times, training leaves it out' in capsys.readouterr().err


def test_classes_that_are_not_chosen_are_noted(coco: Coco) -> None:
    coco.save(of('annotations', category_id=9))
    text = Path(coco.config).read_text().replace("('cat', 'dog')", "('cat',)")
    Path(coco.config).write_text(text)
    status, found = check(coco.config)
    assert (status, [*found]) == (0, ['class not chosen'])
    assert len(training_data(coco.config)[0]['data_samples'].gt_instances) == 0


def test_rounding_is_no_box_across_the_edge(coco: Coco) -> None:
    coco.save(of('annotations', bbox=[44, 4, 20.6, 16]))
    assert check(coco.config) == (0, {})


def test_good_compressed_masks_are_not_reported(coco: Coco) -> None:
    coco.save(compressed(encoded(HEIGHT, WIDTH)))
    assert check(coco.config) == (0, {})


@pytest.mark.parametrize('share', [0, 0.01, 0.5, 1])
def test_run_lengths_are_those_that_pycocotools_compresses(share: float) -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (7, 5), (40, 60), (300, 200)):
        mask = (rng.random((height, width)) < share).astype(np.uint8)
        text = coco_mask.encode(np.asfortranarray(mask))['counts'].decode()
        lengths = run_lengths(text)
        assert lengths is not None
        # Runs of zeros and of ones take turns, column by column.
        pixels_of_runs = np.repeat(np.arange(len(lengths)) % 2, lengths)
        assert np.array_equal(pixels_of_runs, mask.T.reshape(-1))


def test_masks_that_are_not_loaded_are_not_checked(coco: Coco) -> None:
    coco.save(lambda c: [row.pop('segmentation') for row in c['annotations']])
    text = Path(coco.config).read_text().replace("'with_mask': True", "'with_mask': False")
    Path(coco.config).write_text(text)
    assert check(coco.config) == (0, {})


@pytest.mark.parametrize('checked', [True, False])
def test_bad_annotations_of_a_built_data_set_are_known(checked: bool, coco: Coco) -> None:
    cfg = load_config(coco.config)
    leaf = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=leaf)
    init_default_scope(cfg.default_scope)
    if checked:
        check_files_as_they_come(cfg, ('train',))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert list(annotation_problems(dataset)) == []
    coco.content['annotations'][1]['segmentation'] = None
    coco.save(of('annotations', bbox=[NAN, 4, 20, 16]))
    assert list(annotation_problems(dataset)) == [
        f'{coco.file}: annotation 11 of a.jpg: bbox [nan, 4, 20, 16] (box not finite)',
        f'{coco.file}: annotation 12 of b.png: there is none (bad mask)',
    ]


def test_an_annotation_file_is_read_again_only_when_it_has_changed(coco: Coco) -> None:
    first = read_coco(coco.file)
    assert read_coco(coco.file) is first
    coco.save(of('annotations', bbox=[NAN, 4, 20, 16]))
    assert [finding.kind for finding in read_coco(coco.file).findings] == ['box not finite']


# ------------------------------------------------------------------------------- images


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def cut_jpeg(path: Path) -> None:
    """Its thumbnail is complete, and OpenCV decodes what there is."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    whole = path.read_bytes()
    thumbnail = whole[:20] + b'\xff\xd9'
    size = (len(thumbnail) + 2).to_bytes(2, 'big')
    path.write_bytes(whole[:2] + b'\xff\xe5' + size + thumbnail + whole[2:])
    cut(path, 0.9)


def upright(path: Path) -> None:
    """As json has it after the turn that its EXIF data ask for."""
    image = Image.fromarray(pixels(WIDTH, HEIGHT))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


# name of the image, what is done to its file, kind, what is found only by decoding
IMAGE_ERRORS = {
    'missing': ('a.jpg', Path.unlink, 'missing file', False),
    'empty': ('a.jpg', lambda p: p.write_bytes(b''), 'empty file', False),
    'text': ('a.jpg', lambda p: p.write_text('text'), 'unreadable image', False),
    'JPEG cut off': ('a.jpg', cut_jpeg, 'truncated file', False),
    'JPEG of a header': ('a.jpg', lambda p: cut(p, 0.1), 'truncated file', False),
    'PNG cut off': ('b.png', cut, 'unreadable image', True),
    'size': ('a.jpg', lambda p: Image.new('RGB', (65, 48)).save(p), 'another size', False),
    'turned size': (
        'a.jpg',
        lambda p: Image.new('RGB', (HEIGHT, WIDTH)).save(p),
        'another size',
        False,
    ),
    'folder': ('a.jpg', lambda p: (p.unlink(), p.mkdir()), 'unreadable image', False),
}


@pytest.mark.parametrize('case', IMAGE_ERRORS)
def test_bad_images_are_reported_and_stop_training_by_name(case: str, coco: Coco) -> None:
    name, change, kind, decoding = IMAGE_ERRORS[case]
    path = coco.image(name)
    change(path)
    status, found = check(coco.config)
    assert decoding or (status == 1 and [file for file, _ in found[kind]] == [str(path)])
    status, found = check(coco.config, '--images')
    assert (status, [*found]) == (1, [kind])
    assert [file for file, _ in found[kind]] == [str(path)]
    dataset = training_data(coco.config)
    with pytest.raises(DataError) as raised:
        dataset[NAMES.index(name)]
    assert str(raised.value).startswith(f'{path}: ')
    assert '\n' not in str(raised.value)


def as_png(path: Path, image: Image.Image) -> None:
    image.save(path, format='PNG')


SIXTEEN = (pixels().astype(np.uint16) << 8) + 200
# what is written, kinds, what training gets; None leaves that to the size
IMAGE_NOTES: dict[str, tuple[str, Callable[[Path], Any], set[str], Any]] = {
    'extension': (
        'a.jpg',
        lambda p: as_png(p, Image.fromarray(pixels())),
        {'wrong extension'},
        pixels()[..., ::-1],
    ),
    'grey': (
        'b.png',
        lambda p: Image.fromarray(pixels()[..., 0]).save(p),
        {'grey'},
        pixels()[..., [0, 0, 0]],
    ),
    'CMYK': ('a.jpg', lambda p: Image.fromarray(pixels()).convert('CMYK').save(p), {'CMYK'}, None),
    '16 bit': ('b.png', lambda p: cv2.imwrite(str(p), SIXTEEN), {'16 bit'}, pixels()),
    '16 bit grey': (
        'b.png',
        lambda p: cv2.imwrite(str(p), SIXTEEN[..., 0]),
        {'16 bit', 'grey'},
        pixels()[..., [0, 0, 0]],
    ),
    'alpha': (
        'b.png',
        lambda p: Image.fromarray(np.dstack([pixels(), pixels()[..., :1]])).save(p),
        {'alpha'},
        pixels()[..., ::-1],
    ),
    'EXIF': ('a.jpg', upright, {'EXIF rotation'}, None),
}


@pytest.mark.parametrize('case', IMAGE_NOTES)
def test_unusual_images_are_noted_and_trained_on_as_three_channels(case: str, coco: Coco) -> None:
    name, write, kinds, expected = IMAGE_NOTES[case]
    path = coco.image(name)
    write(path)
    status, found = check(coco.config, '--images')
    assert (status, {*found}) == (0, kinds)
    assert all([file for file, _ in rows] == [str(path)] for rows in found.values())
    inputs = training_data(coco.config)[NAMES.index(name)]['inputs']  # (3, H, W)
    assert (inputs.shape, inputs.dtype) == ((3, HEIGHT, WIDTH), torch.uint8)
    if expected is not None:
        assert np.abs(inputs.numpy().transpose(1, 2, 0).astype(int) - expected).max() <= 1


def test_what_follows_the_end_of_a_jpeg_is_no_damage(coco: Coco) -> None:
    path = coco.image('a.jpg')
    path.write_bytes(path.read_bytes() + b'\xff\xda of the camera')
    assert check(coco.config, '--images') == (0, {})
    assert training_data(coco.config)[0]['inputs'].shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize(('width', 'kinds'), [(60, {'one pixel'}), (20_000, {'very large'})])
def test_odd_sizes_are_noted(width: int, kinds: set[str], coco: Coco) -> None:
    height = 1 if width == 60 else 3
    Image.new('RGB', (width, height)).save(coco.image('b.png'))
    coco.save(of('images', 1, width=width, height=height))
    coco.content['annotations'].pop(1)
    coco.save()
    status, found = check(coco.config, '--images')
    assert (status, {*found}) == (0, kinds)


def test_a_image_too_narrow_to_be_resized_stops_training_by_name(coco: Coco) -> None:
    Image.new('RGB', (20_000, 3)).save(coco.image('b.png'))
    coco.save(of('images', 1, width=20_000, height=3))
    with pytest.raises(DataError, match=r'b\.png: Resize fails: error'):
        training_data(coco.config)[1]


def test_a_bad_file_in_a_worker_is_named_in_one_sentence(coco: Coco) -> None:
    cut_jpeg(coco.image('a.jpg'))
    loader = DataLoader(training_data(coco.config), batch_size=None, num_workers=1)
    with pytest.raises(DataError) as raised:
        next(iter(loader))
    assert str(raised.value) == f'{coco.image("a.jpg")}: the end of this JPEG is missing'


# --------------------------------------------------------------------------- segmentation


class LabelMaps:
    """A small dataset in mmseg's format, with three classes after 0, which is ignored."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ('images', 'labels'):
            (root / folder).mkdir()
        for stem in 'ab':
            Image.fromarray(pixels()).save(root / 'images' / f'{stem}.jpg')
            self.write(stem, np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 4)
        pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ]
        dataset = dict(
            type='BaseSegDataset',
            data_root=str(root),
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            metainfo=dict(classes=('sky', 'sea', 'land'), palette=[[0] * 3, [1] * 3, [2] * 3]),
            reduce_zero_label=True,
            pipeline=pipeline,
        )
        self.config = write_config(root / 'config.py', dataset, default_scope='mmseg')

    def labels(self, stem: str) -> Path:
        return self.root / 'labels' / f'{stem}.png'

    def write(self, stem: str, labels: np.ndarray, kind: Any = np.uint8) -> None:
        Image.fromarray(labels.astype(kind)).save(self.labels(stem))


@pytest.fixture
def maps(tmp_path: Path) -> LabelMaps:
    return LabelMaps(tmp_path)


@pytest.mark.parametrize('words', [[], ['--images']])
def test_nothing_is_said_of_good_label_maps(words: list[str], maps: LabelMaps) -> None:
    assert check(maps.config, *words) == (0, {})
    sample = training_data(maps.config)[0]['data_samples']
    assert sample.gt_sem_seg.data.unique().tolist() == [0, 1, 2, 255]


def test_label_maps_of_16_bits_are_good_while_8_would_do(maps: LabelMaps) -> None:
    maps.write('a', np.full((HEIGHT, WIDTH), 3), np.uint16)
    assert check(maps.config, '--images') == (0, {})
    assert training_data(maps.config)[0]['data_samples'].gt_sem_seg.data.unique().tolist() == [2]


def test_a_label_map_fits_the_upright_image(maps: LabelMaps) -> None:
    upright(maps.root / 'images' / 'a.jpg')
    status, found = check(maps.config, '--images')
    assert (status, {*found}) == (0, {'EXIF rotation'})
    assert training_data(maps.config)[0]['inputs'].shape == (3, HEIGHT, WIDTH)


FULL = np.ones((HEIGHT, WIDTH))
# what is done to a label map, kind, whether only decoding finds it
LABEL_ERRORS: dict[str, tuple[Callable[[LabelMaps], Any], str, bool]] = {
    'one too many': (lambda m: m.write('a', FULL * 4), 'label out of range', True),
    'far too many': (lambda m: m.write('a', FULL * 200), 'label out of range', True),
    'size': (lambda m: m.write('a', FULL[:-1]), 'label map of another size', False),
    'turned': (lambda m: m.write('a', FULL.T), 'label map of another size', False),
    '16 bit': (lambda m: m.write('a', FULL * 257, np.uint16), 'not a label map', False),
    'colours': (lambda m: m.write('a', pixels()), 'not a label map', False),
    'missing': (lambda m: m.labels('a').unlink(), 'missing file', False),
    'empty': (lambda m: m.labels('a').write_bytes(b''), 'empty file', False),
    'cut off': (lambda m: cut(m.labels('a')), 'unreadable image', True),
}


@pytest.mark.parametrize('case', LABEL_ERRORS)
def test_bad_label_maps_are_reported_and_stop_training_by_name(case: str, maps: LabelMaps) -> None:
    change, kind, decoding = LABEL_ERRORS[case]
    change(maps)
    status, found = check(maps.config)
    assert decoding or (
        status == 1 and [file for file, _ in found[kind]] == [str(maps.labels('a'))]
    )
    status, found = check(maps.config, '--images')
    assert (status, [*found]) == (1, [kind])
    assert [file for file, _ in found[kind]] == [str(maps.labels('a'))]
    with pytest.raises(DataError) as raised:
        training_data(maps.config)[0]
    assert str(raised.value).startswith(f'{maps.labels("a")}: ')


def test_a_bad_image_beside_its_label_map_is_named(maps: LabelMaps) -> None:
    path = maps.root / 'images' / 'b.jpg'
    path.write_bytes(b'')
    assert check(maps.config)[1]['empty file'] == [(str(path), 'it is empty')]
    with pytest.raises(DataError, match=r'b\.jpg: it is empty'):
        training_data(maps.config)[1]


@pytest.mark.parametrize('folder', ['images', 'labels'])
def test_folders_that_are_missing_or_empty_are_reported(folder: str, maps: LabelMaps) -> None:
    shutil.rmtree(maps.root / folder)
    status, found = check(maps.config)
    assert (status, [*found]) == (1, ['missing file'])
    assert all(folder in file for file, _ in found['missing file'])
    (maps.root / folder).mkdir()
    assert check(maps.config)[0] == 1


# -------------------------------------------------------------------------------- command


def test_several_processes_find_what_one_finds(coco: Coco) -> None:
    for i in range(2 * CHUNK):
        name = f'{i}.jpg'
        if i % 3:
            (shutil.copy if i % 7 else Path.write_bytes)(
                *((coco.image('a.jpg'), coco.image(name)) if i % 7 else (coco.image(name), b''))
            )
        coco.content['images'].append(dict(id=i + 100, file_name=name, width=WIDTH, height=HEIGHT))
    coco.save()
    status, found = check(coco.config, '--images', '--jobs', '1')
    missing, empty = (len(found[kind]) for kind in ('missing file', 'empty file'))
    assert (status, missing) == (1, len(range(0, 2 * CHUNK, 3)))
    assert empty == sum(1 for i in range(2 * CHUNK) if i % 3 and not i % 7)
    assert check(coco.config, '--images', '--jobs', '3') == (status, found)


def test_the_report_counts_and_shows_the_first(
    coco: Coco, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        coco.image(name).unlink()
    assert main(['check-data', coco.config, '--show', '1', '--jobs', '1']) == 1
    said = capsys.readouterr().out
    assert 'error: missing file: 3 (training stops when it comes to it)' in said
    assert f'{coco.image("a.jpg")}: there is no such file\n    and 2 more\n' in said
    assert said.endswith('3 errors, 0 warnings\n')


def test_data_sets_inside_others_are_found_and_equal_ones_looked_at_once(
    coco: Coco, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = Config.fromfile(coco.config)
    leaf = cfg.train_dataloader.dataset
    repeated = dict(type='RepeatDataset', times=2, dataset=leaf)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[repeated])
    cfg.val_dataloader = dict(dataset=leaf)
    cfg.dump(coco.config)
    coco.save(of('annotations', bbox=[NAN, 4, 20, 16]))
    assert main(['check-data', coco.config]) == 1
    assert capsys.readouterr().out.count('annotation 11') == 1
    built = training_data(coco.config)
    assert len(built) == 6


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--jobs', '0'], '--jobs 0'),
        (['--out', 'nowhere/found.json'], 'there is no folder nowhere'),
        (['--split', 'test'], 'has no test data'),
    ],
)
def test_wrong_options_are_errors_of_usage(
    words: list[str], said: str, coco: Coco, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['check-data', coco.config, *words]) == 2
    assert said in capsys.readouterr().err
