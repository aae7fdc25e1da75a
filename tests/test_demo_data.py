"""The demo data: what is annotated is what was drawn, and mmdet and mmseg can read it."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from vitbackbones.cli.main import main
from vitbackbones.data import demo as demo_data
from vitbackbones.data import demo_scenes
from vitbackbones.data.demo import ADE20K, SPLITS, STAMP, ensure, generate
from vitbackbones.errors import UserError

SMALL = dict(train=5, val=3, seed=3)


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'demo'
    generate(out, **SMALL)
    return out


@pytest.fixture(scope='module', params=SPLITS)
def coco(request, demo):
    name = SPLITS[request.param][0]
    return COCO(str(demo / 'coco' / 'annotations' / f'instances_{name}.json'))


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


# ------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize('kind', demo_scenes.KINDS, ids=lambda kind: kind.coco)
@pytest.mark.parametrize('seed', range(3))
def test_mask_of_an_object_is_the_pixels_it_is_drawn_on(kind, seed):
    sprite = demo_scenes.make_sprite(kind, np.random.default_rng(seed), 150, 170)
    white = demo_scenes.Sprite(
        np.full_like(sprite.rgb, 255), sprite.coverage, sprite.top, sprite.left
    )
    image = np.zeros((150, 170, 3))
    white.draw(image)
    mask = np.zeros((150, 170), dtype=bool)
    place, inside = sprite.within(150, 170)
    mask[place] = sprite.mask[inside]
    assert mask.any()
    assert np.array_equal(image[..., 0] > 127.5, mask)


@pytest.mark.parametrize('kind', demo_scenes.KINDS, ids=lambda kind: kind.coco)
def test_object_lies_inside_its_window(kind):
    for seed in range(20):
        coverage = demo_scenes.make_sprite(kind, np.random.default_rng(seed), 160, 160).coverage
        border = np.concatenate([coverage[0], coverage[-1], coverage[:, 0], coverage[:, -1]])
        assert not border.any()


@pytest.mark.parametrize('seed', range(20))
def test_every_object_shows_at_least_its_share(seed, monkeypatch):
    drawn = []
    draw = demo_scenes.Sprite.draw
    monkeypatch.setattr(
        demo_scenes.Sprite, 'draw', lambda self, image: (drawn.append(self), draw(self, image))
    )
    scene = demo_scenes.make_scene(np.random.default_rng(seed), 140, 160)
    assert len(drawn) == len(scene.kinds) >= 1
    for index, sprite in enumerate(drawn):
        visible = (scene.objects == index).sum()
        assert visible >= demo_scenes.MIN_VISIBLE * sprite.mask.sum()
        assert visible >= demo_scenes.MIN_PIXELS


@pytest.mark.parametrize('seed', range(10))
def test_later_objects_hide_earlier_ones(seed, monkeypatch):
    expected = np.full((140, 160), -1)
    draw = demo_scenes.Sprite.draw

    def record(self, image):
        place, inside = self.within(*expected.shape)
        expected[place][self.mask[inside]] = expected.max() + 1
        draw(self, image)

    monkeypatch.setattr(demo_scenes.Sprite, 'draw', record)
    scene = demo_scenes.make_scene(np.random.default_rng(seed), 140, 160)
    assert np.array_equal(scene.objects, expected)


def test_image_differs_from_its_background_only_at_objects(monkeypatch):
    def scene():
        return demo_scenes.make_scene(np.random.default_rng(8), 150, 150)

    full = scene()
    monkeypatch.setattr(demo_scenes.Sprite, 'draw', lambda self, image: None)
    empty = scene()
    changed = (full.image != empty.image).any(axis=-1)
    seen = full.objects >= 0
    near = seen.copy()  # smooth edges reach one pixel further
    near[1:] |= seen[:-1]
    near[:-1] |= seen[1:]
    near[:, 1:] |= near[:, :-1].copy()
    near[:, :-1] |= near[:, 1:].copy()
    assert not (changed & ~near).any()
    assert changed[seen].mean() > 0.95


# --------------------------------------------------------------------------------- files


def test_categories_are_those_of_coco(coco):
    from mmdet.datasets import CocoDataset

    categories = coco.loadCats(coco.getCatIds())
    assert tuple(c['name'] for c in categories) == CocoDataset.METAINFO['classes']
    ids = {c['name']: c['id'] for c in categories}
    assert (ids['person'], ids['stop sign'], ids['toothbrush']) == (1, 13, 90)


def test_labels_are_those_of_ade20k():
    from mmseg.datasets import ADE20KDataset

    classes = ADE20KDataset.METAINFO['classes']
    assert {name: classes.index(name) + 1 for name in ADE20K} == ADE20K


def test_every_class_that_is_drawn_has_a_category_and_a_label():
    categories = {c['name'] for c in demo_data.coco_categories()}
    drawn = demo_scenes.KINDS
    assert {kind.coco for kind in drawn} <= categories
    assert {kind.ade20k for kind in drawn} | set(demo_scenes.BACKGROUNDS) == set(ADE20K)


def test_boxes_are_tight_and_areas_count_pixels(coco):
    assert coco.anns
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert annotation['area'] == mask.sum()
        assert annotation['bbox'] == rle.toBbox(coco.annToRLE(annotation)).tolist()
        assert annotation['iscrowd'] == 0


@pytest.mark.parametrize(
    'mask',
    [
        np.zeros((3, 4), bool),
        np.ones((3, 4), bool),
        np.eye(5, dtype=bool),
        np.arange(35).reshape(5, 7) % 3 == 0,
    ],
)
def test_run_lengths_decode_to_the_mask(mask):
    height, width = mask.shape
    encoded = dict(size=[height, width], counts=demo_data.run_lengths(mask))
    assert np.array_equal(rle.decode(rle.frPyObjects(encoded, height, width)), mask)


@pytest.mark.parametrize('split', SPLITS)
def test_images_masks_and_label_maps_agree(demo, split):
    coco_name, ade_name, _ = SPLITS[split]
    coco = COCO(str(demo / 'coco' / 'annotations' / f'instances_{coco_name}.json'))
    images = sorted((demo / 'ade20k' / 'images' / ade_name).iterdir())
    maps = sorted((demo / 'ade20k' / 'annotations' / ade_name).iterdir())
    assert len(coco.imgs) == len(images) == len(maps) == SMALL[split]
    labels_of = {kind.coco: ADE20K[kind.ade20k] for kind in demo_scenes.KINDS}
    for info, image, label_path in zip(coco.imgs.values(), images, maps, strict=True):
        file = demo / 'coco' / coco_name / info['file_name']
        assert file.read_bytes() == image.read_bytes()
        assert Image.open(file).size == (info['width'], info['height'])
        labels = np.asarray(Image.open(label_path))
        expected = np.full(labels.shape, -1)
        for annotation in coco.imgToAnns[info['id']]:
            name = coco.cats[annotation['category_id']]['name']
            expected[coco.annToMask(annotation) == 1] = labels_of[name]
        objects = expected >= 0
        assert np.array_equal(labels[objects], expected[objects])
        assert {*np.unique(labels[~objects])} <= {ADE20K[n] for n in demo_scenes.BACKGROUNDS}


def test_mmdet_reads_boxes_and_masks(demo):
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = CocoDataset(
            data_root=str(demo / 'coco'),
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=[dict(type='LoadImageFromFile')],
        )
        assert len(dataset) == SMALL['train']
        results = LoadAnnotations(with_bbox=True, with_mask=True)(dataset[0])
    boxes = results['gt_bboxes'].numpy()
    assert len(boxes) == len(results['gt_masks']) >= 1
    assert np.array_equal(results['gt_masks'].get_bboxes(type(results['gt_bboxes'])).numpy(), boxes)
    assert results['img'].shape[:2] == results['gt_masks'].masks.shape[1:]


def test_mmseg_reads_label_maps(demo):
    from mmengine.registry import DefaultScope
    from mmseg.datasets import ADE20KDataset
    from mmseg.datasets.transforms import LoadAnnotations

    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = ADE20KDataset(
            data_root=str(demo / 'ade20k'),
            data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
            pipeline=[dict(type='LoadImageFromFile')],
        )
        assert len(dataset) == SMALL['val']
        results = LoadAnnotations(reduce_zero_label=True)(dataset[0])
    names = [ADE20KDataset.METAINFO['classes'][i] for i in np.unique(results['gt_seg_map'])[:-1]]
    assert set(names) <= set(ADE20K)
    assert results['gt_seg_map'].shape == results['img'].shape[:2]


# ---------------------------------------------------------------------------- generation


def test_equal_options_give_equal_files(demo, tmp_path):
    generate(tmp_path / 'again', **SMALL)
    assert contents(tmp_path / 'again') == contents(demo)


def test_another_seed_gives_other_annotations(demo, tmp_path):
    generate(tmp_path / 'other', **{**SMALL, 'seed': 4})
    file = 'coco/annotations/instances_val2017.json'
    assert (tmp_path / 'other' / file).read_bytes() != (demo / file).read_bytes()


def test_images_do_not_depend_on_how_many_there_are(demo, tmp_path):
    generate(tmp_path / 'fewer', **{**SMALL, 'train': 2})
    fewer, all_of_them = contents(tmp_path / 'fewer'), contents(demo)
    images = [path for path in fewer if path.suffix in ('.jpg', '.png')]
    assert len(images) == 3 * (2 + SMALL['val'])
    assert all(fewer[path] == all_of_them[path] for path in images)


def test_interrupted_generation_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(scene):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_data, 'label_map', interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / 'demo', **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_generating_again_does_nothing(tmp_path, monkeypatch):
    generate(tmp_path / 'demo', **SMALL)
    monkeypatch.delattr(demo_data, '_write')
    generate(tmp_path / 'demo', **SMALL)
    ensure(tmp_path / 'demo')


def test_other_options_are_refused_without_force(demo):
    before = contents(demo)
    with pytest.raises(UserError, match=r'seed=3.*seed=5.*--force'):
        generate(demo, **{**SMALL, 'seed': 5})
    assert contents(demo) == before


def test_force_replaces_demo_data(tmp_path):
    generate(tmp_path / 'demo', train=2, val=1)
    generate(tmp_path / 'demo', train=1, val=1, force=True)
    assert len(list((tmp_path / 'demo' / 'coco' / 'train2017').iterdir())) == 1
    assert json.loads((tmp_path / 'demo' / STAMP).read_text())['train'] == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('force', [False, True])
def test_what_is_no_demo_data_is_never_touched(tmp_path, force):
    (tmp_path / 'thesis.tex').write_text('all of it')
    with pytest.raises(UserError, match='holds no demo data'):
        generate(tmp_path, **SMALL, force=force)
    assert contents(tmp_path).keys() == {(tmp_path / 'thesis.tex').relative_to(tmp_path)}


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / 'demo').mkdir()
    generate(tmp_path / 'demo', train=1, val=1)
    assert (tmp_path / 'demo' / STAMP).is_file()


def test_ensure_takes_demo_data_of_any_options(demo):
    before = contents(demo)
    ensure(demo)
    assert contents(demo) == before


def test_ensure_refuses_data_of_another_version(tmp_path):
    (tmp_path / STAMP).write_text('{"version": 0}')
    with pytest.raises(UserError, match='version 0'):
        ensure(tmp_path)


@pytest.mark.parametrize('options', [dict(train=0), dict(val=0), dict(seed=-1), dict(sides=(9, 9))])
def test_option_outside_its_range_is_named(tmp_path, options):
    name, value = next(iter(options.items()))
    with pytest.raises(UserError, match=name):
        generate(tmp_path / 'demo', **options)
    assert list(tmp_path.iterdir()) == []


def test_images_have_the_sides_asked_for(tmp_path):
    generate(tmp_path / 'demo', train=3, val=1, sides=(64, 70))
    for path in (tmp_path / 'demo').rglob('*.jpg'):
        assert all(64 <= side <= 70 for side in Image.open(path).size)


def test_command_writes_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ['--train', '1', '--val', '1', '--sides', '64', '64']
    assert main(['demo-data', *args]) == 0
    assert (tmp_path / demo_data.OUT / STAMP).is_file()
