"""The command line as a user meets it, in processes of its own."""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from vitbackbones.backbones import SepViT
from vitbackbones.checkpoint import CheckpointError, require_exact_match
from vitbackbones.cli.arguments import add_config_arguments
from vitbackbones.cli.main import main
from vitbackbones.data import demo as demo_data
from vitbackbones.launch.checks import build_backbone
from vitbackbones.launch.loading import load_config
from vitbackbones.launch.training import starting_point

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs/detection/sepvit_retinanet.py'
# A narrow network on few images: these tests are about the commands, not about accuracy.
SMALL = [
    'model.backbone.arch=lite',
    'model.neck.in_channels=[64,128,256]',
    'model.neck.out_channels=32',
    'model.bbox_head.in_channels=32',
    'model.bbox_head.feat_channels=32',
    'model.bbox_head.stacked_convs=1',
    'model.test_cfg.score_thr=0.0',  # or three iterations would detect nothing at all
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
]


def vitbackbones(*words: object, cwd: Path, status: int = 0) -> str:
    """Run a command; its standard output and error, after checking the exit status."""
    done = subprocess.run(
        [sys.executable, '-m', 'vitbackbones', *map(str, words)],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '2'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a demo set of few images."""
    folder = tmp_path_factory.mktemp('cli')
    demo_data.generate(folder / 'data/demo', train=8, val=3, seed=0)
    return folder


@pytest.fixture(scope='module')
def trained(place: Path) -> Path:
    """A detector after three iterations: its work directory."""
    options = ['train_cfg.max_iters=3', 'default_hooks.checkpoint.interval=2', *SMALL]
    out = vitbackbones(
        'train', CONFIG, '--demo', '--work-dir', 'run', '--cfg-options', *options, cwd=place
    )
    assert 'bbox_mAP_50' in out
    return place / 'run'


def test_training_writes_checkpoints_of_the_small_model(trained: Path) -> None:
    assert sorted(p.name for p in trained.glob('*.pth')) == ['iter_3.pth']
    content = torch.load(trained / 'iter_3.pth', weights_only=True)
    assert content['meta']['iter'] == 3
    assert content['state_dict']['backbone.patch_embeds.0.proj.weight'].shape[0] == 32


def test_the_saved_config_is_what_the_user_wrote(
    trained: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    args = parser.parse_args([str(CONFIG), '--demo', '--cfg-options', *SMALL])
    written = load_config(args.config, args.cfg_options, demo=True)
    saved = Config.fromfile(trained / CONFIG.name)
    for key in ('model', 'optim_wrapper', 'val_evaluator', 'test_evaluator'):
        assert saved[key] == written[key], key
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert saved[loader] == written[loader], loader
    assert saved.custom_imports.imports == ['vitbackbones']
    assert [hook.type for hook in saved.custom_hooks] == [
        f'vitbackbones.{name}Hook' for name in ('Preflight', 'Durable', 'NonFinite', 'ZeroLoss')
    ]
    text = torch.load(trained / 'iter_3.pth', weights_only=True)['meta']['cfg']
    assert text == saved.pretty_text


def test_testing_leaves_the_saved_config_of_the_training_alone(trained: Path, place: Path) -> None:
    saved = (trained / CONFIG.name).read_text()
    vitbackbones(
        *('test', CONFIG, trained / 'iter_3.pth', '--demo', '--work-dir', trained),
        *('--cfg-options', *SMALL, 'model.test_cfg.score_thr=0.9'),
        cwd=place,
    )
    assert (trained / CONFIG.name).read_text() == saved
    tested = Config.fromfile(trained / f'{CONFIG.stem}_test.py')
    assert tested.model.test_cfg.score_thr == 0.9
    assert tested.train_dataloader == Config.fromfile(trained / CONFIG.name).train_dataloader


def test_resume_goes_on_where_training_stopped(trained: Path, place: Path) -> None:
    out = vitbackbones(
        *('train', CONFIG, '--demo', '--work-dir', 'resumed', '--resume', trained / 'iter_3.pth'),
        *('--cfg-options', 'train_cfg.max_iters=5', *SMALL),
        cwd=place,
    )
    assert 'resumed epoch: 0, iter: 3' in out
    after = torch.load(place / 'resumed/iter_5.pth', weights_only=True)
    assert after['meta']['iter'] == 5
    steps = {s['step'].item() for s in after['optimizer']['state'].values()}
    assert steps == {5.0}


def test_resuming_shuffles_with_the_seed_of_the_interrupted_run(trained: Path) -> None:
    seed = torch.load(trained / 'iter_3.pth', weights_only=True)['meta']['seed']
    for randomness in ({}, {'randomness': dict(seed=None, deterministic=True)}):
        cfg = Config({'work_dir': str(trained), **randomness})
        starting_point(cfg, 'auto')
        assert cfg.randomness.seed == seed
        assert cfg.randomness.get('deterministic', False) is bool(randomness)
    cfg = Config({'work_dir': str(trained), 'randomness': dict(seed=seed + 1)})
    starting_point(cfg, 'auto')
    assert cfg.randomness.seed == seed + 1


def test_testing_prints_metrics_and_draws_images(trained: Path, place: Path) -> None:
    out = vitbackbones(
        *('test', CONFIG, trained / 'iter_3.pth', '--demo', '--show-dir', 'shown'),
        *('--cfg-options', *SMALL),
        cwd=place,
    )
    assert 'bbox_mAP_50' in out
    shown = sorted((place / 'shown').glob('*.jpg'))
    assert len(shown) == 3
    original = Image.open(place / f'data/demo/coco/val2017/{shown[0].name}')
    assert Image.open(shown[0]).width == 2 * original.width  # ground truth next to the result


def test_inference_writes_images_and_coco_json(trained: Path, place: Path) -> None:
    images = sorted((place / 'data/demo/coco/val2017').glob('*.jpg'))[:2]
    vitbackbones(
        *('infer', CONFIG, trained / 'iter_3.pth', *images, '--out-dir', 'found', '--demo'),
        *('--cfg-options', *SMALL),
        cwd=place,
    )
    for image in images:
        drawn = Image.open(place / f'found/{image.stem}_prediction.jpg')
        assert drawn.size == Image.open(image).size
    found = json.loads((place / 'found/predictions.json').read_text())
    assert [row['file_name'] for row in found['images']] == [image.name for image in images]
    assert len(found['categories']) == 80
    assert found['categories'][0]['name'] == 'person'
    truth = json.loads((place / 'data/demo/coco/annotations/instances_val2017.json').read_text())
    ids = {row['file_name']: row['id'] for row in truth['images']}
    assert {row['image_id'] for row in found['annotations']} == {ids[p.name] for p in images}
    size = {row['id']: (row['width'], row['height']) for row in found['images']}
    for row in found['annotations']:
        x, y, width, height = row['bbox']
        assert 0 <= x <= x + width <= size[row['image_id']][0] + 0.01
        assert 0 <= y <= y + height <= size[row['image_id']][1] + 0.01
        assert 0 <= row['score'] <= 1


def test_mixed_precision_trains_on_a_cpu_and_says_so(place: Path) -> None:
    out = vitbackbones(
        *('train', CONFIG, '--demo', '--amp', '--work-dir', 'amp'),
        *('--cfg-options', 'train_cfg.max_iters=1', *SMALL),
        cwd=place,
    )
    gpu = torch.cuda.is_available()
    assert ('AmpOptimWrapper becomes bfloat16 autocast' in out) is not gpu
    saved = Config.fromfile(place / 'amp' / CONFIG.name)
    assert saved.optim_wrapper.type == 'AmpOptimWrapper'  # as asked for, on whatever machine


def test_two_processes_train_one_detector(place: Path) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [
            *('bash', ROOT / 'tools/dist_train.sh', CONFIG, '2', '--demo', '--work-dir', 'two'),
            *('--cfg-options', 'train_cfg.max_iters=2', *SMALL),
        ],
        cwd=place,
        env={
            **os.environ,
            'PYTHONPATH': str(ROOT),
            'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
            'OMP_NUM_THREADS': '1',
            'MASTER_PORT': str(port),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert (place / 'two/iter_2.pth').exists()
    assert done.stdout.count('processes talk through gloo') == 1


def test_the_stock_tool_of_mmdet_trains_and_resumes_our_config_by_path(place: Path) -> None:
    import mmdet

    tool = Path(mmdet.__file__).parent / '.mim/tools/train.py'
    data = place / 'data/demo/coco/'

    def train(epochs: int, *words: str) -> str:
        done = subprocess.run(
            [
                *(sys.executable, tool, CONFIG, '--work-dir', 'stock', *words, '--cfg-options'),
                *(f'{split}_dataloader.dataset.data_root={data}' for split in ('train', 'val')),
                f'val_evaluator.ann_file={data}/annotations/instances_val2017.json',
                *('train_dataloader.dataset.pipeline.2.scale=(160,128)', 'log_level=INFO'),
                *('val_dataloader.dataset.pipeline.1.scale=(160,128)', *SMALL),
                f'train_cfg.max_epochs={epochs}',
            ],
            cwd=place,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    train(1)
    assert (place / 'stock/epoch_1.pth').exists()
    assert 'resumed epoch: 1, iter: 4' in train(2, '--resume')
    assert (place / 'stock/epoch_2.pth').exists()


def test_the_demo_prints_metrics_and_draws_a_contact_sheet(place: Path) -> None:
    out = vitbackbones('demo', '--iterations', 2, cwd=place)
    assert 'training RetinaNet with SepViT lite for 2 iterations' in out
    assert 'iteration 2/2' in out
    sheet = Image.open(place / 'work_dirs/demo/predictions.png')
    images = [Image.open(p).size for p in (place / 'data/demo/coco/val2017').glob('*.jpg')]
    assert sheet.width > 2 * 2 * max(width for width, _ in images)  # pairs, enlarged twice


def test_a_segmentor_trains_and_infers_with_the_same_commands(place: Path) -> None:
    config = ROOT / 'configs/segmentation/sepvit_upernet.py'
    options = (
        *('model.backbone.arch=lite', 'model.decode_head.in_channels=[32,64,128,256]'),
        *('model.auxiliary_head.in_channels=128', 'model.decode_head.channels=16'),
        *('model.auxiliary_head.channels=16', 'train_cfg.max_iters=1', *SMALL[-7:]),
    )
    out = vitbackbones('train', config, '--demo', '--cfg-options', *options, cwd=place)
    assert 'SyncBN becomes BN' in out or torch.cuda.is_available()
    assert 'mIoU' in out
    image = next((place / 'data/demo/ade20k/images/validation').glob('*.jpg'))
    checkpoint = 'work_dirs/sepvit_upernet_demo/iter_1.pth'
    vitbackbones(
        *('infer', config, checkpoint, image, '--out-dir', 'maps', '--demo'),
        *('--cfg-options', *options),
        cwd=place,
    )
    labels = Image.open(place / f'maps/{image.stem}_labels.png')
    assert labels.size == Image.open(image).size
    assert max(labels.getdata()) < 150
    assert (place / f'maps/{image.stem}_prediction.jpg').exists()


def test_a_sandwich_config_trains_four_points_in_each_iteration(place: Path) -> None:
    config = place / 'sandwich.py'
    config.write_text(
        "_base_ = 'vitbackbones::detection/supervit/supervit-deit_s_retinanet_sandwich-3x.py'\n"
        'arch = dict(_delete_=True, dim=32, depth=4, num_heads=2, mlp_ratio=2, qkv_bias=True,\n'
        '            norm_eps=1e-6)\n'
        'model = dict(backbone=dict(arch=arch, taps=(3,)), neck=dict(in_channels=[32] * 3))\n'
    )
    options = ('train_cfg.max_iters=2', 'default_hooks.logger.interval=1', *SMALL[2:])
    out = vitbackbones('train', config, '--demo', '--cfg-options', *options, cwd=place)
    for name in ('full', 'full_pruned', 'small', 'small_pruned'):
        assert len(re.findall(rf' {name}\.loss: \d', out)) == 2
    assert 'bbox_mAP_50' in out


@pytest.mark.parametrize('base', ['vitbackbones::detection/sepvit_retinanet.py', str(CONFIG)])
def test_our_configs_are_inherited_by_name_and_by_path(tmp_path: Path, base: str) -> None:
    (tmp_path / 'own.py').write_text(f"_base_ = '{base}'\nmodel = dict(backbone=dict(arch='lite'))")
    cfg = load_config(str(tmp_path / 'own.py'))
    assert cfg.model.backbone.type == 'vitbackbones.SepViT'
    assert cfg.model.backbone.arch == 'lite'
    assert build_backbone(cfg).out_channels == (64, 128, 256)
    if '::' in base:
        assert load_config(base).model.neck.in_channels == [192, 384, 768]


# -------------------------------------------------------------------------- bad input


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command that has to end with status 2; the one sentence it says.

    Any other exception than the two kinds that stand for a user's error passes through `main`, and
    a user would see its traceback: the test fails with it.
    """

    def run(*words: object, cwd: Path) -> str:
        monkeypatch.chdir(cwd)
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # argparse's own
            status = end.code
        assert status == 2
        return capsys.readouterr().err

    return run


def test_a_missing_config_suggests_near_names(refused, tmp_path: Path) -> None:
    out = refused('train', ROOT / 'configs/detection/sepvit_retinane.py', cwd=tmp_path)
    assert 'there is no config file' in out
    assert 'did you mean sepvit_retinanet.py' in out


def test_a_broken_config_is_named(refused, tmp_path: Path) -> None:
    (tmp_path / 'broken.py').write_text('model = dict(\n')
    out = refused('train', 'broken.py', cwd=tmp_path)
    assert 'config broken.py cannot be read: SyntaxError' in out


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.backbone.arch=huge', "unknown arch 'huge', choose from 'lite', 'tiny'"),
        ('model.backbone.drop_path=0.1', "SepViT has no option 'drop_path', choose from arch,"),
        ('model.backbone.out_indices=[1,7]', 'out_indices=(1, 7) must name stages out of'),
        ('modle.backbone.arch=tiny', 'did you mean model?'),
        ('model.bbox_head.num_classes=3', 'num_classes=3, but the dataset has 80 classes'),
        ('model.backbone.out_indices=1', "'out_indices': 1"),
        ('model.bakcbone.arch=lite', "unexpected keyword argument 'bakcbone'"),
        ('train_cfg.max_iter=5', "unexpected keyword argument 'max_iter'"),
        ('train_cfg.max_iters=many', "train_cfg.max_iters='many' must be a positive number"),
        ('optim_wrapper.optimizer.lrr=1', "unexpected keyword argument 'lrr'"),
        ('data_root=/data', 'it is a variable of the config file'),
        ('load_from=none.pth', 'none.pth cannot be opened'),
        ('model.neck.in_channels=[64,128', 'Imbalanced brackets'),
        ('model.backbone', 'expected KEY=VALUE'),
    ],
)
def test_a_wrong_option_names_the_choices(refused, place: Path, option: str, message: str) -> None:
    before = sorted(place.rglob('*.pth'))
    out = refused('train', CONFIG, '--demo', '--cfg-options', option, cwd=place)
    assert message in out
    assert sorted(place.rglob('*.pth')) == before


def test_missing_data_says_where_to_put_them(refused, tmp_path: Path) -> None:
    out = refused('train', CONFIG, cwd=tmp_path)
    assert 'data/coco/annotations/instances_train2017.json' in out
    assert '--demo' in out
    assert list(tmp_path.iterdir()) == []


def test_class_names_that_the_annotations_lack_are_refused(
    refused, place: Path, tmp_path: Path
) -> None:
    (tmp_path / 'own.py').write_text(
        f"_base_ = '{CONFIG}'\n"
        "meta = dict(classes=('person', 'unicorn'))\n"
        f"root = '{place}/data/demo/coco/'\n"
        'model = dict(bbox_head=dict(num_classes=2))\n'
        'train_dataloader = dict(dataset=dict(data_root=root, metainfo=meta))\n'
        'val_dataloader = dict(dataset=dict(data_root=root, metainfo=meta))\n'
        "val_evaluator = dict(ann_file=root + 'annotations/instances_val2017.json')\n"
    )
    out = refused('train', 'own.py', cwd=tmp_path)
    assert 'has no class unicorn; its classes are person, bicycle' in out


@pytest.mark.parametrize('command', ['test', 'infer', 'resume'])
def test_a_file_that_is_no_checkpoint_is_refused(refused, place: Path, command: str) -> None:
    file = place / 'page.pth'
    file.write_text('<html>not found</html>')
    image = next((place / 'data/demo/coco/val2017').glob('*.jpg'))
    words = {
        'test': ('test', CONFIG, file, '--demo'),
        'infer': ('infer', CONFIG, file, image, '--out-dir', 'nowhere'),
        'resume': ('train', CONFIG, '--demo', '--resume', file),
    }[command]
    assert 'page.pth is a web page' in refused(*words, cwd=place)
    assert not (place / 'nowhere').exists()


@pytest.mark.parametrize('command', ['test', 'resume'])
def test_a_checkpoint_of_another_model_is_refused(
    refused, trained: Path, place: Path, command: str
) -> None:
    file = trained / 'iter_3.pth'
    words = ('test', CONFIG, file) if command == 'test' else ('train', CONFIG, '--resume', file)
    assert 'does not fit the model of the config' in refused(*words, '--demo', cwd=place)


def test_surplus_blocks_of_a_larger_variant_do_not_fit() -> None:
    with torch.device('meta'):
        tiny, small = SepViT('tiny'), SepViT('small')
    with pytest.raises(CheckpointError, match=r'0 of another shape, \d+ too many'):
        require_exact_match(tiny, {'state_dict': small.state_dict()}, 'small.pth')


def test_a_converted_checkpoint_gives_the_same_metrics(trained: Path, place: Path) -> None:
    vitbackbones('convert', trained / 'iter_3.pth', 'weights.safetensors', '--force', cwd=place)
    metrics = [
        re.findall(
            r'bbox_mAP\S*: (-?[0-9.]+)',
            vitbackbones('test', CONFIG, file, '--demo', '--cfg-options', *SMALL, cwd=place),
        )
        for file in (trained / 'iter_3.pth', 'weights.safetensors')
    ]
    assert metrics[0] == metrics[1]
    assert metrics[0]


def test_an_unreadable_image_is_named_before_anything_is_written(
    refused, trained: Path, place: Path
) -> None:
    good = next((place / 'data/demo/coco/val2017').glob('*.jpg'))
    (place / 'bad.jpg').write_bytes(good.read_bytes()[:40])
    for bad, message in (('bad.jpg', 'cannot be read as an image'), ('none.jpg', 'no image')):
        words = ('infer', CONFIG, trained / 'iter_3.pth', good, bad, '--out-dir', 'nothing')
        assert message in refused(*words, cwd=place)
    assert not (place / 'nothing').exists()


# ----------------------------------------------------------------------- smaller commands


def test_info_lists_every_variant(refused, tmp_path: Path) -> None:
    from tests.test_contract import BACKBONES

    out = vitbackbones('info', cwd=tmp_path)
    for cls in BACKBONES:
        for arch in cls.archs:
            assert f'{cls.__name__.lower()}_{arch}' in out.split()
    one = vitbackbones('info', 'sepvit', 'tiny', cwd=tmp_path)
    assert '33.66 M  96 192 384 768           4 8 16 32' in one
    assert vitbackbones('info', 'SepViT_tiny', cwd=tmp_path) == one  # as `create` has it
    assert 'choose from CASViT, GCViT' in refused('info', 'ResNet', cwd=tmp_path)
    assert "leave out 'small'" in refused('info', 'gcvit_tiny', 'small', cwd=tmp_path)
    assert 'choose from gcvit_tiny,' in refused('info', 'gcvit-tiny', cwd=tmp_path)
    assert "no arch 'huge', choose from lite" in refused('info', 'SepViT', 'huge', cwd=tmp_path)


@pytest.mark.parametrize(
    ('words', 'read'),
    [
        ('report a.py --out-dir out b.pth', dict(config='a.py', checkpoint='b.pth')),
        ('report --out-dir out a.py --worst 3 b.pth', dict(checkpoint='b.pth', worst=3)),
        ('report a.py --out-dir out', dict(checkpoint=None)),
        ('test a.py --tta b.pth --dump c', dict(checkpoint='b.pth', dump='c')),
        ('test --work-dir out -- a.py b.pth', dict(config='a.py', checkpoint='b.pth')),
        ('export a.py --part model b.pth --half', dict(checkpoint='b.pth', half=True)),
        ('export a.py --size 64 32', dict(checkpoint=None, size=[64, 32])),
        ('train --amp a.py', dict(config='a.py', resume=None)),
        ('train a.py --resume --amp', dict(resume='auto', cfg_options=None)),
        ('train a.py --cfg-options b=1 c=[2] --amp', dict(cfg_options=dict(b=1, c=[2]))),
        ('explain a.py b.pth --what tokens c.png', dict(images=['c.png'])),
        ('explain a.py --what tokens b.pth c.png --box d.png', dict(images=['c.png', 'd.png'])),
        ('infer a.py b.pth c.png --out-dir out d.png', dict(images=['c.png', 'd.png'])),
        ('infer a.onnx --out-dir out b.png', dict(config='a.onnx', checkpoint='b.png', images=[])),
        ('info --help-me', None),
        ('demo --iterations 3 a.py', dict(config='a.py', iterations=3)),
        ('convert --force a.pth b.pth', dict(input='a.pth', output=Path('b.pth'))),
        ('convert a.pth --to pth b.pth c.pth', None),
    ],
)
def test_arguments_stand_anywhere_among_options(
    words: str,
    read: dict[str, object] | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, *_ = argv = words.split()
    if command == 'explain':
        argv += ['--out-dir', 'out']
    seen: list[argparse.Namespace] = []
    monkeypatch.setattr(f'vitbackbones.cli.{command}.run', seen.append)
    if read is None:
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
        assert f'vitbackbones {command}: error: unrecognized arguments: {argv[-1]}' in (
            capsys.readouterr().err
        )
        return
    assert main(argv) == 0
    (args,) = map(vars, seen)
    assert {key: args[key] for key in read} == read
    assert args['command'] == command
