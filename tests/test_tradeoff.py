"""Accuracy and cost at many operating points: what is measured, kept, reused and refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from tests.small import SMALL
from vitbackbones.benchmark import tradeoff
from vitbackbones.benchmark.points import point_name, read_points
from vitbackbones.cli.main import main
from vitbackbones.data import demo as demo_data
from vitbackbones.launch.loading import load_config

ROOT = Path(__file__).parents[1]
DETECTOR = f"""
_base_ = '{ROOT}/configs/detection/supervit_retinanet.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{SMALL['SuperViT']}), taps=(4,), drop_path_rate=None),
    neck=dict(in_channels=[16] * 3, out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
    test_cfg=dict(score_thr=0.0, nms_pre=20, max_per_img=10),
)
"""
SEGMENTOR = f"""
_base_ = '{ROOT}/configs/segmentation/supervit_upernet.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{SMALL['SuperViT']}), drop_path_rate=None),
    decode_head=dict(in_channels=[16] * 4, channels=16),
    auxiliary_head=dict(in_channels=16, channels=16),
)
"""
LOADER = {'test_dataloader.num_workers': 0, 'test_dataloader.persistent_workers': False}
POINTS = ('1,1', '8/14,0.5')

Measure = Callable[..., int]


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a demo set, configs of small models and checkpoints of random weights."""
    folder = tmp_path_factory.mktemp('tradeoff')
    demo_data.generate(folder / 'data/demo', train=1, val=3, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, text in (('detector', DETECTOR), ('segmentor', SEGMENTOR)):
            (folder / f'{name}.py').write_text(text)
            cfg = load_config(f'{name}.py', LOADER, demo=True)
            cfg.dump(folder / f'{name}.py')  # which is read faster than its many bases
            init_default_scope(cfg.default_scope)
            for seed in (0, 1):
                torch.manual_seed(seed)
                model = MODELS.build(cfg.model)
                if name == 'segmentor':
                    see_one_class(model, most_frequent_class(), strength=100 if seed == 0 else 1)
                content = {'state_dict': model.state_dict(), 'meta': {}}
                torch.save(content, folder / f'{name}-{seed}.pth')
    return folder


def see_one_class(model: torch.nn.Module, label: int, strength: float) -> None:
    """Everywhere, or, where that is weak, only where the features, made to differ, leave it."""
    for value in (*model.backbone.parameters(), model.decode_head.conv_seg.weight):
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=0.3)
    model.decode_head.conv_seg.bias.data[label] = strength


def most_frequent_class() -> int:
    """Of the demo set in the working directory; 0 in its files is no class."""
    files = Path('data/demo/ade20k/annotations/validation').iterdir()
    counts = sum(np.bincount(np.array(Image.open(file)).ravel(), minlength=256) for file in files)
    return int(np.argmax(counts[1:]))


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in ``place``, and let mmengine log configs without seconds of formatting."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(Config, 'pretty_text', '')


@pytest.fixture
def measure(here: None, tmp_path: Path) -> Measure:
    """Run the command into ``tmp_path``; its exit status."""

    def run(
        config: str = 'detector.py',
        checkpoint: str = 'detector-0.pth',
        points: tuple[str, ...] = POINTS,
        options: tuple[str, ...] = (),
    ) -> int:
        words = ['--rounds', '2', '--images', '2', '--out-dir', str(tmp_path), '--points', *points]
        words += ['--cfg-options', *options] if options else []
        return main(['tradeoff', config, checkpoint, *words])

    return run


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The points at which the test set was gone through, which takes no time here."""
    names: list[str] = []

    def evaluate(runner: Any, point: Any) -> dict[str, float]:
        names.append(point_name(point))
        return {'coco/bbox_mAP': 0.25}

    monkeypatch.setattr(tradeoff, 'evaluate', evaluate)
    return names


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / 'tradeoff.csv').open() as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------- results


@pytest.mark.parametrize(('task', 'metric'), [('detector', 'bbox_mAP'), ('segmentor', 'mIoU')])
def test_table_and_plot_hold_accuracy_and_cost_of_every_point(
    measure: Measure, tmp_path: Path, task: str, metric: str
) -> None:
    assert measure(f'{task}.py', f'{task}-0.pth') == 0
    full, small = table(tmp_path)
    assert (float(small['scale']), float(small['keep_rate'])) == (pytest.approx(8 / 14), 0.5)
    for row in (full, small):
        assert 0 <= float(row[metric]) <= 100
        assert 0 < float(row['backbone_gflops']) < float(row['gflops'])
        assert 0 < float(row['backbone_latency_ms']) < float(row['latency_ms'])
    assert float(full['latency_ratio']) == 1
    assert float(small['backbone_gflops']) < 0.8 * float(full['backbone_gflops'])
    head = float(full['gflops']) - float(full['backbone_gflops'])
    assert float(small['gflops']) - float(small['backbone_gflops']) == pytest.approx(head)
    text = (tmp_path / 'tradeoff.md').read_text()
    assert text.count('\n| ') == 4
    assert '8/14, 0.5' in text
    assert Image.open(tmp_path / 'tradeoff.png').width > 500


def test_accuracy_is_that_of_the_test_command_at_each_point(
    measure: Measure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure('segmentor.py', 'segmentor-1.pth') == 0
    full, small = (float(row['mIoU']) for row in table(tmp_path))
    assert full != small
    capsys.readouterr()
    point = [f'model.backbone.operating_point.{x}' for x in (f'scale={8 / 14}', 'keep_rate=0.5')]
    for value, options in ((full, []), (small, ['--cfg-options', *point])):
        words = ('--work-dir', str(tmp_path / 'test'), *options)
        assert main(['test', 'segmentor.py', 'segmentor-1.pth', *words]) == 0
        assert f'mIoU: {value:.4f}' in capsys.readouterr().out


def test_not_one_detection_is_an_accuracy_of_zero(measure: Measure, tmp_path: Path) -> None:
    options = ('model.test_cfg.score_thr=1.0',)
    assert measure(points=('1,1',), options=options) == 0
    (row,) = table(tmp_path)
    assert float(row['bbox_mAP']) == 0


def test_the_default_is_every_pair_of_a_sandwich() -> None:
    names = [point_name(point) for point in read_points(None)]
    assert len(names) == 12
    assert names[:3] == ['1, 1', '1, 0.7', '1, 0.5']
    assert names[-1] == '8/14, 0.5'


def test_points_are_read_as_fractions_and_each_once() -> None:
    names = map(point_name, read_points(['8/14,1', '.5,7/10', '4/7,1.0']))
    assert list(names) == ['8/14, 1', '0.5, 0.7']


# ------------------------------------------------------------------------- interruptions


def test_an_interrupted_run_leaves_its_table_and_the_next_one_goes_on(
    measure: Measure,
    tested: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluate = tradeoff.evaluate

    def interrupted(runner: Any, point: Any) -> dict[str, float]:
        if tested:
            raise KeyboardInterrupt
        return evaluate(runner, point)

    with monkeypatch.context() as patch:
        patch.setattr(tradeoff, 'evaluate', interrupted)
        assert measure() == 130
    assert 'interrupted' in capsys.readouterr().err
    first, second = table(tmp_path)
    assert (first['bbox_mAP'], second['bbox_mAP']) == ('25.0', '')
    assert float(second['gflops']) > 0

    assert measure() == 0
    assert '1 of 2 points were tested before' in capsys.readouterr().err
    assert tested == ['1, 1', '8/14, 0.5']
    assert all(float(row['latency_ms']) > 0 for row in table(tmp_path))


def test_an_interruption_of_the_timing_keeps_the_whole_rounds(
    measure: Measure, tested: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn = tradeoff.in_turn

    def interrupted(*args: Any, **options: Any) -> Any:
        for i, result in enumerate(in_turn(*args, **options)):
            if i == 2 * 2 + 2 * 2 + 1:  # warm-up, a round of two images at two points, a call
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(tradeoff, 'in_turn', interrupted)
        assert measure() == 130
    assert rounds_kept(tmp_path) == [1, 1]
    assert all(float(row['latency_ms']) > 0 for row in table(tmp_path))
    assert measure() == 0
    assert rounds_kept(tmp_path) == [2, 2]
    assert len(tested) == 2


def rounds_kept(folder: Path) -> list[int]:
    (content,) = json.loads((folder / 'tradeoff.json').read_text()).values()
    return [len(c['seconds']) for c in content['cost']['points'].values()]


def test_an_interrupted_run_at_more_points_leaves_the_earlier_results(
    measure: Measure, tested: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert measure() == 0
    with monkeypatch.context() as patch:
        patch.setattr(tradeoff, 'count_flops', interrupt)
        assert measure(points=(*POINTS, '1,0.7')) == 130
    assert rounds_kept(tmp_path) == [2, 2]
    monkeypatch.setattr(tradeoff, 'in_turn', None)
    assert measure() == 0


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_an_interruption_before_anything_is_known_leaves_no_table(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tradeoff, 'describe_machine', interrupt)
    assert measure() == 130
    assert not (tmp_path / 'tradeoff.md').exists()


def test_neither_another_day_nor_another_commit_makes_costs_stale(
    measure: Measure, tested: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = tradeoff.describe_machine
    assert measure() == 0
    monkeypatch.setattr(tradeoff, 'in_turn', None)
    other = dict(date='1999-12-31', commit='abcdef')
    monkeypatch.setattr(tradeoff, 'describe_machine', lambda device: {**describe(device), **other})
    assert measure() == 0


def test_results_of_two_checkpoints_stay_side_by_side(measure: Measure, tested: list[str]) -> None:
    for number in (0, 1, 0, 1):
        assert measure(checkpoint=f'detector-{number}.pth') == 0
    assert len(tested) == 2 * len(POINTS)


def test_finished_work_is_not_repeated_on_the_same_weights_in_another_file(
    measure: Measure,
    tested: list[str],
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert measure() == 0
    before = table(tmp_path)
    monkeypatch.setattr(tradeoff, 'in_turn', None)
    monkeypatch.setattr(tradeoff, 'count_flops', None)
    content = torch.load(place / 'detector-0.pth', weights_only=True)
    torch.save({**content, 'more': 1}, place / 'copy.pth')
    assert measure(checkpoint='copy.pth') == 0
    assert len(tested) == 2
    assert table(tmp_path) == before


@pytest.mark.parametrize('what', ['checkpoint', 'config', 'data'])
def test_of_another_checkpoint_config_or_data_nothing_is_reused(
    measure: Measure, tested: list[str], place: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    assert measure() == 0
    capsys.readouterr()
    image = sorted((place / 'data/demo/coco/val2017').iterdir())[0]
    kept = image.read_bytes()
    try:
        if what == 'checkpoint':
            assert measure(checkpoint='detector-1.pth') == 0
        elif what == 'config':
            assert measure(options=('model.test_cfg.max_per_img=9',)) == 0
        else:
            Image.open(image).rotate(180).save(image)
            assert measure() == 0
    finally:
        image.write_bytes(kept)
    assert f'is of another {what}: measuring everything afresh' in capsys.readouterr().err
    assert tested == ['1, 1', '8/14, 0.5'] * 2


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    'word', ['1', '1,2,3', 'a,b', '0,1', '1,1.5', '1,-1', 'nan,1', 'inf,1', '1/0,1', '1,', '']
)
def test_a_malformed_point_is_refused(
    measure: Measure, capsys: pytest.CaptureFixture[str], tmp_path: Path, word: str
) -> None:
    assert measure(points=('1,1', word)) == 2
    assert f'--points {word}: expected SCALE,KEEP_RATE, two numbers in (0, 1]' in (
        capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


def test_a_point_that_leaves_no_token_is_refused(
    measure: Measure, tested: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(points=('1,1', '0.01,0.001')) == 2
    assert 'leaves less than one token' in capsys.readouterr().err
    assert tested == []


def test_a_backbone_without_operating_points_is_refused(
    here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ROOT / 'configs/detection/shvit_retinanet.py'
    assert main(['tradeoff', str(config), 'detector-0.pth', '--demo']) == 2
    error = capsys.readouterr().err
    assert 'only a backbone with operating points can be measured at several' in error
    assert 'SHViT' in error


def test_an_unfit_checkpoint_is_refused(
    measure: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(checkpoint='segmentor-0.pth') == 2
    assert 'segmentor-0.pth does not fit the model of the config' in capsys.readouterr().err


def test_a_damaged_file_of_results_is_named(
    measure: Measure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'tradeoff.json').write_text('{"subject":')
    assert measure() == 2
    assert 'tradeoff.json cannot be gone on with' in capsys.readouterr().err


def test_rounds_and_images_are_at_least_one(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['tradeoff', 'detector.py', 'x.pth', '--rounds', '0']) == 2
    assert '--rounds 0 must be at least 1' in capsys.readouterr().err


def test_the_results_are_in_the_working_directory_by_default(
    here: None, place: Path, tested: list[str]
) -> None:
    words = ['--points', '1,1', '--images', '1', '--rounds', '1']
    assert main(['tradeoff', 'detector.py', 'detector-0.pth', *words]) == 0
    assert (place / 'work_dirs/detector/tradeoff/tradeoff.md').exists()
    shutil.rmtree(place / 'work_dirs')
