"""Classifiers by commands: folders of images, training, testing, predicting, what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

import vitbackbones
from tests.checkpoint_files import FAMILIES, Published, published, save, to_timm, wrap
from tests.small import SMALL
from vitbackbones import load_pretrained, metafiles
from vitbackbones.backbones import SHViT
from vitbackbones.backbones.base import Backbone
from vitbackbones.benchmark import cost_card
from vitbackbones.checkpoint import CheckpointError
from vitbackbones.classifiers import build_classifier
from vitbackbones.classifiers.heads import CLASSIFIERS
from vitbackbones.cli.main import main
from vitbackbones.data import demo as demo_data
from vitbackbones.data.demo_folders import ensure_folders
from vitbackbones.launch import loading
from vitbackbones.launch.loading import load_config
from vitbackbones.launch.smallest import use_smallest_arch
from vitbackbones.pretrained import load_model, translate_for_finetuning

ROOT = Path(__file__).parents[1]
CLASSES = {'blue': (40, 60, 200), 'green': (40, 190, 60), 'red': (200, 50, 40)}

pytestmark = pytest.mark.usefixtures('mmpretrain')

#: A small SHViT on images of 64 pixels, three classes.
CONFIG = f"""
_base_ = '{ROOT}/configs/classification/shvit-s1_in1k.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{SMALL['SHViT']})),
    head=dict(num_classes=3, in_channels=32),
    data_preprocessor=dict(num_classes=3),
    train_cfg=None,  # neither mixup nor cutmix
)
steps = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.ResizeEdge', scale=72, edge='short'),
    dict(type='mmpretrain.CenterCrop', crop_size=64),
    dict(type='mmpretrain.PackInputs'),
]
train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmpretrain.CustomDataset', data_root='own', data_prefix='train', pipeline=steps
    ),
)
val_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmpretrain.CustomDataset', data_root='own', data_prefix='val', pipeline=steps
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=8, val_interval=8)
optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = None
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(interval=8, save_best=None, save_last=True))
"""

DETECTOR = f"""
_base_ = '{ROOT}/configs/detection/shvit_retinanet.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{SMALL['SHViT']}), init_cfg=None),
    neck=dict(in_channels=[16, 24, 32], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
)
"""


def draw(path: Path, colour: Sequence[int], seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-30, 30, (70, 80, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)


def write_data(folder: Path, splits: dict[str, int]) -> None:
    for place, (split, number) in enumerate(splits.items()):
        for i, (name, colour) in enumerate(CLASSES.items()):
            for j in range(number):
                draw(folder / split / name / f'{j}.png', colour, 10_000 * place + 100 * i + j)


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, its data, and a demo set of few images."""
    folder = tmp_path_factory.mktemp('classification')
    write_data(folder / 'own', dict(train=16, val=4))
    (folder / 'own.py').write_text(CONFIG)
    (folder / 'detector.py').write_text(DETECTOR)
    demo_data.generate(folder / 'data/demo', train=8, val=3, seed=0)
    return folder


@pytest.fixture
def run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command in the folder; what it prints, after a look at its exit status."""
    monkeypatch.chdir(place)

    def command(*words: object, status: int = 0) -> str:
        capfd.readouterr()
        assert main([*map(str, words)]) == status
        printed = capfd.readouterr()
        return printed.out + printed.err

    return command


@pytest.fixture(scope='module')
def trained(place: Path) -> Path:
    """The checkpoint of a classifier after eight epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(['train', 'own.py', '--work-dir', 'run']) == 0
    return place / 'run/epoch_8.pth'


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)['state_dict']


# ------------------------------------------------------------------- training and what follows


def test_training_learns_and_testing_measures_it(trained: Path, run: Any) -> None:
    assert 'accuracy/top1: 100.0000' in run('test', 'own.py', trained)
    meta = torch.load(trained, weights_only=True)['meta']
    assert meta['dataset_meta']['classes'] == tuple(CLASSES)


def test_training_goes_on_where_it_stopped(trained: Path, run: Any) -> None:
    options = ('--cfg-options', 'train_cfg.max_epochs=9')
    out = run('train', 'own.py', '--work-dir', 'more', '--resume', trained, *options)
    assert 'resumed epoch: 8' in out
    assert 'the learning rate is for batches of 2048 ' in out
    before, after = weights(trained), weights(trained.parents[1] / 'more/epoch_9.pth')
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


AVERAGED = """
_base_ = 'own.py'
custom_hooks = [
    dict(type='mmpretrain.EMAHook', momentum=0.1, update_buffers=True, evaluate_on_origin=True)
]
train_cfg = dict(max_epochs=1)
default_hooks = dict(checkpoint=dict(interval=1))
"""


def test_averaged_weights_are_tested_once_and_start_classifiers_of_other_classes(
    place: Path, run: Any
) -> None:
    (place / 'averaged.py').write_text(AVERAGED)
    run('train', 'averaged.py', '--work-dir', 'averages')
    content = torch.load('averages/epoch_1.pth', weights_only=True)
    assert 'ema_state_dict' in content
    named = ('default_hooks.e.type=mmpretrain.EMAHook', 'default_hooks.e.evaluate_on_origin=True')
    for dump, options in (('a.json', ()), ('b.json', ('--cfg-options', *named))):
        said = run('test', 'averaged.py', 'averages/epoch_1.pth', '--dump', dump, *options)
        assert said.count('accuracy/top1: ') == 1
        assert "took 'state_dict', not 'ema_state_dict'" in said  # as mmengine saves averages
        assert len(json.loads(Path(dump).read_text())) == 12
    two = place / 'two'
    write_data(two / 'own', dict(train=4, val=2))
    for split in ('train', 'val'):
        (two / 'own' / split / 'red').rename(two / f'red of {split}')
    options = ['model.head.num_classes=2', 'model.data_preprocessor.num_classes=2']
    options += [f'{split}_dataloader.dataset.data_root=two/own' for split in ('train', 'val')]
    options += ['load_from=averages/epoch_1.pth', 'train_dataloader.batch_size=4']
    said = run('train', 'averaged.py', '--work-dir', 'two/run', '--cfg-options', *options)
    assert 'head' in said
    started = torch.load('two/run/epoch_1.pth', weights_only=True)
    assert {len(v) for k, v in started['state_dict'].items() if 'linear' in k} == {2}


def test_a_batch_of_one_image_is_said_before_the_first_step(place: Path, run: Any) -> None:
    options = ('train_dataloader.batch_size=47',)  # of 48
    said = run('train', 'own.py', '--work-dir', 'lonely', '--cfg-options', *options, status=2)
    assert 'the last batch of an epoch (48 images by 47) would have one image, and' in said
    assert 'train_dataloader.drop_last=True' in said
    more = ('train_dataloader.drop_last=True', 'train_cfg.max_epochs=1')
    run('train', 'own.py', '--work-dir', 'lonely', '--cfg-options', *options, *more)
    said = run(
        *('train', 'own.py', '--work-dir', 'single', '--cfg-options'),
        *('train_dataloader.batch_size=1',),
        status=2,
    )
    assert 'each batch would have one image' in said


def test_hidden_folders_are_no_classes(place: Path, run: Any, tmp_path: Path) -> None:
    write_data(tmp_path, dict(train=2, val=1))
    draw(tmp_path / 'train/.ipynb_checkpoints/0.png', (0, 0, 0), 0)
    options = [f'{split}_dataloader.dataset.data_root={tmp_path}' for split in ('train', 'val')]
    for command in ('train', 'check-data'):
        said = run(command, 'own.py', '--cfg-options', *options, status=1 + (command == 'train'))
        assert 'has hidden folders (.ipynb_checkpoints), which' in ' '.join(said.split())


def test_predictions_are_the_best_classes_of_each_image(trained: Path, run: Any) -> None:
    images = sorted(Path('own/val').glob('*/0.png'))
    copies = [Path(f'{path.parent.name}.png') for path in images]
    for path, copy in zip(images, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    run('infer', 'own.py', trained, *copies, '--out-dir', 'out')
    found = json.loads(Path('out/predictions.json').read_text())
    assert [row['file_name'] for row in found] == [*map(str, copies)]
    for row, name in zip(found, CLASSES, strict=True):
        best = row['classes']
        assert best[0]['name'] == name == [*CLASSES][best[0]['label']]
        scores = [each['score'] for each in best]
        assert len(best) == 3  # of at most five
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1)
    for copy in copies:
        with Image.open(f'out/{copy.stem}_prediction.jpg') as drawn, Image.open(copy) as image:
            assert drawn.height > image.height  # the classes stand below it


def test_a_table_of_the_classes_that_are_wanted(trained: Path, run: Any) -> None:
    words = ['--classes', 'red', 'green', '--format', 'csv', '--threshold', '0.3']
    run('infer', 'own.py', trained, 'own/val', *words, '--out-dir', 'table')
    with Path('table/predictions.csv').open(newline='') as file:
        head, *rows = csv.reader(file)
    assert head == ['file_name', 'class', 'score']
    for name in ('red', 'green'):
        best = {row[1] for row in rows if row[0] == f'{name}/0.png'}
        assert name in best
    assert {row[1] for row in rows} == {'red', 'green'}
    assert all(float(row[2]) >= 0.3 for row in rows)
    found = json.loads(Path('table/predictions.json').read_text())
    assert len(found) == 12
    listed = [(row['file_name'], each['name']) for row in found for each in row['classes']]
    assert listed == [(row[0], row[1]) for row in rows]
    assert Path('table/blue/0_prediction.jpg').exists()
    said = run(
        'infer', 'own.py', trained, 'own/val', '--format', 'yolo', '--out-dir', 'x', status=2
    )
    assert '--format yolo is for detectors, not for a classifier, whose predictions.json' in said


def test_testing_draws_and_writes_what_was_predicted(trained: Path, run: Any) -> None:
    run('test', 'own.py', trained, '--show-dir', 'shown', '--dump', 'found.json')
    assert len([*Path('shown').iterdir()]) == 12
    found = json.loads(Path('found.json').read_text())
    assert len({row['file_name'] for row in found}) == 12
    for row in found:
        assert row['classes'][0]['name'] == Path(row['file_name']).parent.name
    said = run('test', 'own.py', trained, '--dump', 'found.json', status=2)
    assert 'found.json exists' in said


@pytest.mark.parametrize('what', ['features', 'gradcam', 'attention'])
def test_what_a_classifier_looks_at_is_drawn(
    trained: Path, run: Any, tmp_path: Path, what: str
) -> None:
    image = 'own/val/red/0.png'
    run('explain', 'own.py', trained, image, '--what', what, '--out-dir', tmp_path, '--arrays')
    found = {path.name: np.load(path) for path in tmp_path.glob('*.npy')}
    ends = dict(features='', gradcam='_1', attention='_1_attention')
    assert {f'0_{what}_{stage}{ends[what]}.npy' for stage in (2, 3)} <= found.keys()
    assert all(np.isfinite(values).all() for values in found.values())
    with Image.open(next(tmp_path.glob(f'0_{what}_3*.png'))) as drawn:
        drawn.load()
    if what == 'gradcam':
        assert {name[-5] for name in found} == {'1'}  # the other classes have no score
        assert max(values.max() for values in found.values()) == 1
    said = run(
        'explain', 'own.py', trained, image, '--what', what, '--box', '--out-dir', 'x', status=2
    )
    assert '--box is for' in said


def test_the_classifier_with_tokens_has_no_maps(place: Path, run: Any, tmp_path: Path) -> None:
    (place / 'tokens.py').write_text(f"""
_base_ = '{ROOT}/configs/classification/supervit-deit-s_in1k.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{SMALL['SuperViT']}), num_classes=3),
    data_preprocessor=dict(num_classes=3),
)
steps = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.Resize', scale=(96, 64)),
    dict(type='mmpretrain.PackInputs'),
]
data = dict(type='mmpretrain.CustomDataset', data_root='own', data_prefix='val', pipeline=steps)
test_dataloader = dict(_delete_=True, dataset=data)
""")
    cfg = load_config('tokens.py')
    init_default_scope(cfg.default_scope)
    meta = dict(dataset_meta=dict(classes=tuple(CLASSES)))
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=meta), 'tokens.pth')
    words = ('explain', 'tokens.py', 'tokens.pth', 'own/val/red/0.png', '--out-dir', tmp_path)
    for what in ('features', 'gradcam'):
        said = run(*words, '--what', what, status=2)
        assert f'--what {what}: SuperViTClassifier has none; choose from attention, tokens' in said
    run(*words, '--what', 'attention', '--stage', '4', '--arrays')
    assert np.load(tmp_path / '0_attention_4_1_class.npy').shape[1:] == (14, 14)
    run(*words, '--what', 'tokens', '--arrays')
    shapes = [np.load(tmp_path / f'0_tokens_3_{number}.npy').shape for number in (1, 8)]
    assert shapes == [(14, 14), (8, 8)]


def test_views_of_an_image_share_a_prediction(trained: Path, run: Any, tmp_path: Path) -> None:
    found = []
    for name, words in (('one', ()), ('both', ('--tta',))):
        out = tmp_path / f'{name}.json'
        said = run('test', 'own.py', trained, '--dump', out, *words)
        assert 'accuracy/top1: 100.0000' in said
        found.append({row['file_name']: row['classes'] for row in json.loads(out.read_text())})
    one, both = found
    assert one.keys() == both.keys()
    assert one != both
    for classes in both.values():
        assert sum(each['score'] for each in classes) == pytest.approx(1)


def test_the_demo_has_its_objects_in_folders(place: Path, run: Any) -> None:
    content = json.loads((place / 'data/demo/coco/annotations/instances_val2017.json').read_text())
    root = ensure_folders(place / 'data/demo')
    assert len([*root.glob('val/*/*.jpg')]) == len(content['annotations'])
    for path in root.glob('*/*/*.jpg'):
        with Image.open(path) as image:
            assert image.size == (64, 64)
    options = ('train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.batch_size=4')
    workers = [
        f'{split}_dataloader.{option}'
        for split in ('train', 'val')
        for option in ('num_workers=0', 'persistent_workers=False')
    ]
    names = ('--work-dir', 'demo', '--cfg-options', *options, *workers)
    assert 'accuracy/top1' in run('train', 'own.py', '--demo', *names)


@pytest.mark.parametrize('network', ['casvit-t', 'shvit-s4', 'supervit-deit-s'])
def test_the_demo_takes_the_smallest_variant(
    network: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    cfg = load_config(f'vitbackbones::classification/{network}_in1k.py', demo=True)
    use_smallest_arch(cfg)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        logits = MODELS.build(cfg.model).eval()(torch.zeros(1, 3, 96, 96), mode='tensor')
    assert logits.shape == (1, 6)


@pytest.mark.parametrize(
    ('config', 'options', 'rate'),
    [
        ('shvit-s4_in1k', {}, 3e-4),  # published: 1e-3 for 2048 images, the demo has 16
        ('casvit-xs_in1k', {}, 3e-4),
        ('finetune_folders', {}, 1e-4),
        ('shvit-s4_in1k', {'optim_wrapper.optimizer.lr': 2e-3}, 2e-3),
    ],
)
def test_the_demo_learns_at_a_rate_for_its_batch(
    config: str, options: Any, rate: float, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    cfg = load_config(f'vitbackbones::classification/{config}.py', options, demo=True)
    assert cfg.optim_wrapper.optimizer.lr == rate


# --------------------------------------------------------------------------- published weights


def test_weights_of_our_own_classifiers_are_tested(trained: Path, place: Path, run: Any) -> None:
    """A state dict of `create`, under the names of the authors, measures as the checkpoint."""
    torch.save({'model': weights(trained)}, place / 'plain.pth')
    assert 'accuracy/top1: 100.0000' in run('test', 'own.py', 'plain.pth')
    other = build_classifier(SHViT, SMALL['SHViT'], num_classes=3).state_dict()
    torch.save(other, place / 'other.pth')
    assert 'accuracy/top1' in run('test', 'own.py', 'other.pth')
    assert {*other} == {*weights(trained)}


@pytest.fixture
def imagenet(place: Path) -> Path:
    """Two images in the place of ImageNet; a list spares its thousand folders."""
    root = place / 'imagenet'
    for label, name in enumerate(('n01440764', 'n01443537')):
        draw(root / 'val' / name / 'a.jpg', (100, 50, 50), label)
    (root / 'meta').mkdir(exist_ok=True)
    (root / 'meta/val.txt').write_text('n01440764/a.jpg 0\nn01443537/a.jpg 1\n')
    return root


@pytest.mark.parametrize('dialect', ['official', 'timm', 'by name'])
def test_published_weights_are_tested_on_imagenet(
    dialect: str, imagenet: Path, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Published('shvit', 's1', 'cls')
    state = case.filled()
    if dialect == 'timm':
        state = to_timm('shvit', state)
    name = save(wrap(case, state), tmp_path / 'published.pth')
    if dialect == 'by name':
        row = metafiles.weights_of('shvit_s1')[0]
        row = dataclasses.replace(row, address=name, sha256=None)
        monkeypatch.setattr(metafiles, 'weights_of', lambda variant: [row])
        name = 'published'
    options = [f'test_dataloader.dataset.data_root={imagenet}', 'test_dataloader.num_workers=0']
    config = 'vitbackbones::classification/shvit-s1_in1k.py'
    run('test', config, name, '--dump', tmp_path / 'd.json', '--cfg-options', *options)
    rows = json.loads((tmp_path / 'd.json').read_text())
    assert [Path(row['file_name']).parent.name for row in rows] == ['n01440764', 'n01443537']
    net = vitbackbones.create('shvit_s1', tmp_path / 'published.pth', num_classes=1000).eval()
    cfg = load_config(config)
    init_default_scope('mmpretrain')
    steps = Compose(cfg.test_dataloader.dataset.pipeline)
    packed = steps({'img_path': rows[0]['file_name']})
    mean, std = (torch.tensor(cfg.data_preprocessor[k])[:, None, None] for k in ('mean', 'std'))
    with torch.no_grad():
        best = net(((packed['inputs'].flip(0).float() - mean) / std)[None]).softmax(1).topk(5)
    assert [each['label'] for each in rows[0]['classes']] == best.indices[0].tolist()
    assert [each['score'] for each in rows[0]['classes']] == pytest.approx(
        best.values[0].tolist(), rel=1e-4
    )
    assert rows[0]['classes'][0]['name'] == imagenet_names()[best.indices[0, 0]]


def imagenet_names() -> Sequence[str]:
    from mmpretrain.datasets.categories import IMAGENET_CATEGORIES

    return IMAGENET_CATEGORIES


# ------------------------------------------------------------------- heads and networks of others

OTHER_HEADS = {
    'LinearClsHead': {},
    'StackedLinearClsHead': {'mid_channels': [16]},
    'ArcFaceClsHead': {},
    'MultiLabelLinearClsHead': {},
}


def classifier_with(kind: str, backbone: Any = None, classes: int = 3, **head: Any) -> Any:
    own = dict(type='vitbackbones.SHViT', arch=SMALL['SHViT'], out_indices=(2,))
    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=backbone or own,
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type=f'mmpretrain.{kind}', num_classes=classes, in_channels=32, **head),
        )
    )


@pytest.mark.parametrize('kind', OTHER_HEADS)
def test_any_head_around_a_network_of_ours_is_loaded_and_tuned(kind: str) -> None:
    model, other = (classifier_with(kind, **OTHER_HEADS[kind]) for _ in range(2))
    content = {'state_dict': model.state_dict(), 'meta': {}}
    load_model(other, content, 'own.pth')
    assert all(torch.equal(v, content['state_dict'][k]) for k, v in other.state_dict().items())
    published = build_classifier(SHViT, SMALL['SHViT'], num_classes=7).state_dict()
    found = translate_for_finetuning(model, {'state_dict': published}, 'seven.pth')
    names = [name for name in model.state_dict() if name.startswith('backbone.')]
    assert all(torch.equal(found[name], published[name]) for name in names)
    with pytest.raises(CheckpointError, match=r'of the config: .* use the config it was') as caught:
        load_model(model, {'state_dict': published}, 'seven.pth')
    assert 'detector' not in str(caught.value)


def test_any_network_in_a_classifier_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=4)
    monkeypatch.delitem(CLASSIFIERS, 'SHViT')  # as of a network that somebody has added
    for backbone in (theirs, None):
        model, other = (classifier_with('LinearClsHead', backbone) for _ in range(2))
        state = model.state_dict()
        load_model(other, {'state_dict': state}, 'own.pth')
        assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())
        assert {*translate_for_finetuning(other, {'state_dict': state}, 'own.pth')} == {*state}


def test_of_published_files_the_weights_that_were_measured_are_tested(
    trained: Path, run: Any
) -> None:
    """timm's trainer measures averages, DeiT's the plain weights; both save both."""
    good = weights(trained)
    bad = {k: torch.full_like(v, torch.nan) for k, v in good.items() if v.is_floating_point()}
    for (name, state), (other, left) in (
        (('state_dict_ema', good), ('state_dict', good | bad)),
        (('model', good), ('model_ema', good | bad)),
    ):
        torch.save({name: state, other: left}, 'both.pth')
        said = run('test', 'own.py', 'both.pth')
        assert 'accuracy/top1: 100.0000' in said
        assert f"took '{name}', not '{other}'" in said
        net = build_classifier(SHViT, SMALL['SHViT'], num_classes=3)
        load_pretrained(net, 'both.pth')
        assert all(torch.equal(v, good[k]) for k, v in net.state_dict().items())


# ------------------------------------------------------------------- what starts from a classifier


@pytest.mark.parametrize('family', sorted(FAMILIES))
def test_from_classifier_to_detector_to_segmentor_each_tensor_is_accounted_for(
    family: str, tmp_path: Path
) -> None:
    cls = FAMILIES[family]
    arch = SMALL[cls.__name__] | ({'aux_weight': 0.25} if family == 'supervit' else {})
    given = build_classifier(cls, arch, num_classes=3).state_dict()
    file = save({'state_dict': given, 'meta': {}}, tmp_path / 'classifier.pth')
    detector = cls(SMALL[cls.__name__] if family != 'supervit' else arch)
    own = detector.state_dict()
    report = load_pretrained(detector, file)
    assert {*report.loaded} | {*report.initialised} == {*own}
    assert not {*report.loaded} & {*report.initialised}
    assert len(report.loaded) + len(report.dropped) == len(given)
    after = detector.state_dict()
    taken = [name for name in report.loaded if f'backbone.{name}' in given]
    taken = [name for name in taken if after[name].shape == given[f'backbone.{name}'].shape]
    assert all(torch.equal(after[name], given[f'backbone.{name}']) for name in taken)
    assert len(taken) + len(report.adapted) >= len(report.loaded)

    segmentor = cls(SMALL[cls.__name__] if family != 'supervit' else arch)
    assert_goes_from_detector_to_segmentor(detector, segmentor, tmp_path)


def assert_goes_from_detector_to_segmentor(
    detector: Backbone, segmentor: Backbone, folder: Path
) -> None:
    trained = detector.state_dict()
    whole = {f'backbone.{name}': value for name, value in trained.items()}
    whole['bbox_head.retina_cls.weight'] = torch.ones(3, 3, 1, 1)
    file = save({'state_dict': whole, 'meta': {}}, folder / 'detector.pth')
    report = load_pretrained(segmentor, file)
    assert {*report.loaded} == {*trained}
    assert (report.initialised, {*report.dropped}) == ((), {'bbox_head.retina_cls.weight'})
    assert all(torch.equal(segmentor.state_dict()[name], trained[name]) for name in trained)


SMALLEST = {
    case.family: case
    for case in sorted(published(), key=lambda case: -case.manifest['params'])
    if case.kind == 'cls' and not case.suffix
}


@pytest.mark.parametrize('family', sorted(FAMILIES))
def test_from_a_published_classifier_to_detector_to_segmentor(family: str, tmp_path: Path) -> None:
    case = SMALLEST[family]
    given = {name: value + 1 for name, value in case.zeros().items()}
    file = save(wrap(case, given), tmp_path / 'published.pth')
    detector, segmentor = case.cls(case.arch), case.cls(case.arch)
    own = {name: value.clone() for name, value in detector.state_dict().items()}
    report = load_pretrained(detector, file)
    assert {*report.loaded} | {*report.initialised} == {*own}
    assert len(report.loaded) + len(report.dropped) == len(given)
    for name, value in detector.state_dict().items():
        want = own[name] if name in report.initialised else torch.ones_like(value)
        assert name in report.adapted or torch.equal(value, want), name
    assert_goes_from_detector_to_segmentor(detector, segmentor, tmp_path)


# ------------------------------------------------------------------------------- what is refused


def one_sentence(said: str, command: str) -> str:
    (line,) = [line for line in said.splitlines() if line.startswith(f'vitbackbones {command}: ')]
    assert 'Traceback' not in said
    return line


def test_other_numbers_of_classes_are_refused_in_a_test_and_said_in_training(
    trained: Path, place: Path, run: Any
) -> None:
    other = build_classifier(SHViT, SMALL['SHViT'], num_classes=7)
    torch.save(other.state_dict(), place / 'seven.pth')
    said = one_sentence(run('test', 'own.py', 'seven.pth', status=2), 'test')
    assert 'seven.pth is a classifier of other classes' in said
    assert '3 classes instead of 7' in said
    assert 'load_from=seven.pth' in said
    torch.save({'state_dict': other.state_dict()}, place / 'start.pth')
    options = ('load_from=start.pth', 'train_cfg.max_epochs=1', 'optim_wrapper.optimizer.lr=0.0')
    said = run('train', 'own.py', '--work-dir', 'tuned', '--cfg-options', *options)
    assert '3 classes instead of 7' in said
    assert 'head.head.linear' in said
    now, given = weights(place / 'tuned/epoch_1.pth'), other.state_dict()
    kept = [k for k, v in given.items() if 'running' not in k and 'tracked' not in k]
    assert {k for k in kept if not torch.equal(now[k], given[k])} == {
        'head.head.linear.weight',
        'head.head.linear.bias',
    }


def test_new_writes_no_classifiers(run: Any, tmp_path: Path) -> None:
    for data in ((), ('--data', 'own')):
        words = ('--from', 'own.py', '--backbone', 'casvit_xs', *data, '-o', tmp_path / 'new.py')
        line = one_sentence(run('new', *words, status=2), 'new')
        assert 'own.py is of a classifier, and `new` writes detectors and segmentors' in line
    assert [*tmp_path.iterdir()] == []


def test_a_classifier_is_no_detector_and_the_other_way_round(
    trained: Path, place: Path, run: Any, tmp_path: Path
) -> None:
    said = one_sentence(run('test', 'detector.py', trained, '--demo', status=2), 'test')
    assert f'{trained} does not fit the model of the config, for it is a classifier' in said
    assert 'model.backbone.init_cfg.checkpoint=FILE' in said
    cfg = load_config('detector.py', demo=True)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'detector.pth')
    said = one_sentence(run('test', 'own.py', tmp_path / 'detector.pth', status=2), 'test')
    assert 'detector.pth holds no classifier' in said


@pytest.mark.parametrize(
    ('command', 'root', 'said'),
    [
        ('train', 'nowhere', 'the train dataset is not there: nowhere/train'),
        ('train', 'empty', 'empty/train has no folders: put the images of each class into'),
        ('train', 'bare', 'Found 0 files in subfolders'),
        ('train', 'four', 'model.head.num_classes=3, but the dataset has 4 classes'),
        ('train', 'uneven', 'uneven/val lacks a folder of green: labels are the places of folders'),
        ('train', 'shifted', 'lacks a folder of blue and has one of azure, which training lacks'),
        ('test', 'nowhere', 'the test dataset is not there: nowhere/val'),
        ('test', 'fewer', 'fewer/val has 2 folders (blue, red), and the model 3 classes'),
    ],
)
def test_folders_that_are_not_the_classes_are_said_in_one_sentence(
    command: str, root: str, said: str, trained: Path, place: Path, run: Any
) -> None:
    splits = ('train', 'val')
    names = {
        'empty': dict.fromkeys(splits, ()),
        'bare': {split: tuple(CLASSES) for split in splits},
        'four': dict.fromkeys(splits, (*CLASSES, 'yellow')),
        'uneven': {'train': tuple(CLASSES), 'val': ('blue', 'red')},
        'shifted': {'train': tuple(CLASSES), 'val': ('azure', 'green', 'red')},
        'fewer': {'val': ('blue', 'red')},
    }
    for split, folders in names.get(root, {}).items():
        (place / root / split).mkdir(parents=True, exist_ok=True)
        for name in folders:
            (place / root / split / name).mkdir(exist_ok=True)
            if root != 'bare':
                draw(place / root / split / name / '0.png', (9, 9, 9), 0)
    options = [f'{split}_dataloader.dataset.data_root={root}' for split in (*splits, 'test')]
    file = [trained] if command == 'test' else []
    work = ('--work-dir', 'refused', '--cfg-options', *options)
    line = one_sentence(run(command, 'own.py', *file, *work, status=2), command)
    assert said in line
    assert not Path('refused').exists()


def test_folders_of_imagenet_have_to_be_all_of_them(run: Any, place: Path, tmp_path: Path) -> None:
    draw(tmp_path / 'val/n01440764/a.jpg', (1, 2, 3), 0)
    save(Published('shvit', 's1', 'cls').filled(), tmp_path / 'w.pth')
    option = f'test_dataloader.dataset.data_root={tmp_path}'
    config = 'vitbackbones::classification/shvit-s1_in1k.py'
    words = ('test', config, tmp_path / 'w.pth', '--cfg-options', option)
    assert 'val has 1 folders (n01440764), one for each class, and the classes are 1000' in run(
        *words, status=2
    )


def test_without_mmpretrain_the_answer_is_what_to_install(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> Any:
        raise RuntimeError('operator torchvision::nms does not exist')

    monkeypatch.setattr(loading.importlib, 'import_module', broken)
    line = one_sentence(run('train', 'own.py', status=2), 'train')
    assert 'mmpretrain cannot be imported (operator torchvision::nms does not exist)' in line
    assert "pip install 'vitbackbones[cls]'" in line
    monkeypatch.setattr(loading, 'find_spec', lambda name: None)
    line = one_sentence(run('train', 'own.py', status=2), 'train')
    assert 'mmpretrain is not installed: pip install' in line


def test_published_is_the_weights_of_a_classifier(run: Any) -> None:
    line = one_sentence(run('test', 'detector.py', 'published', '--demo', status=2), 'test')
    assert "'published' stands for the published weights of a classifier" in line


# ----------------------------------------------------------------------------------- check-data


def test_the_data_are_counted_and_looked_at(place: Path, run: Any) -> None:
    said = run('check-data', 'own.py', '--images')
    assert 'train: own/train: 48 images' in said
    assert [line.split() for line in said.splitlines() if 'blue' in line] == [
        ['blue', '16'],
        ['blue', '4'],
    ]
    assert '0 errors, 0 warnings' in said


def test_bad_folders_are_named(place: Path, run: Any) -> None:
    write_data(place / 'bad', dict(train=2, val=1))
    for split in ('train', 'val'):
        (place / 'bad' / split / 'none').mkdir()
    (place / 'bad/train/red/broken.png').write_bytes(b'no image')
    twin = place / 'bad/val/green/0.png'
    twin.write_bytes((place / 'bad/train/red/1.png').read_bytes())
    options = [f'{split}_dataloader.dataset.data_root=bad' for split in ('train', 'val', 'test')]
    said = run('check-data', 'own.py', '--out', 'bad.json', '--cfg-options', *options, status=1)
    assert 'bad/train: no image of 1 of 4 classes: none' in said
    assert 'bad/train/red/broken.png' in said
    assert 'bad/val/green/0.png: the same as bad/train/red/1.png' in said
    train, val = json.loads((place / 'bad.json').read_text())
    assert train['counts']['images_of_class'] == dict(blue=2, green=2, none=0, red=3)
    assert [finding['kind'] for finding in val['findings']] == [
        'class without images',
        'image of two splits',
    ]
    (place / 'bad/val/none').rmdir()
    said = run('check-data', 'own.py', '--cfg-options', *options, status=1)
    assert 'bad/val: lacks a folder of none' in said


def test_classes_in_another_order_than_their_folders_are_an_error(place: Path, run: Any) -> None:
    options = [
        f"{split}_dataloader.dataset.metainfo.classes=['red','green','blue']"
        for split in ('train', 'val', 'test')
    ]
    said = run('check-data', 'own.py', '--cfg-options', *options, status=1)
    assert 'metainfo.classes has another (red, green, blue): write it in that order' in said
    assert 'metainfo.classes has another' in run(
        'train', 'own.py', '--cfg-options', *options, status=2
    )


# ------------------------------------------------------------------------------------ benchmark


def test_a_classifier_costs_what_it_is_tested_with(run: Any) -> None:
    words = ('--configs', 'own.py', '--rounds', '1', '--out-dir', 'cost')
    assert '### 64 x 64' in run('benchmark', *words)
    card = cost_card('own.py', rounds=1)
    assert card['size'] == (64, 64)
    assert card['flops'] > 0
    assert card['train_memory'] > card['test_memory'] > 0
