"""The sweep over the methods of mmdet and mmseg: which configs, going on, and the page."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[1] / 'tools'
sys.path.insert(0, str(TOOLS))

import sweep_configs  # noqa: E402
import sweep_table  # noqa: E402
import sweep_trial  # noqa: E402

MODEL = "model = dict(type='A', backbone=dict(type='B'))\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Configs of four methods, in one of which the first has a backbone only by inheriting."""
    root = tmp_path / 'toy_methods/.mim/configs'
    files = {
        '_base_/model.py': MODEL,
        'b_plain/b.py': MODEL,
        'b_plain/a.py': "model = dict(type='A')\n",
        'a_inherits/a.py': "_base_ = '../_base_/model.py'\n",
        'a_inherits/b.py': MODEL,
        'c_none/b.py': "model = dict(type='A')\n",
        'c_none/a.py': 'data = dict()\n',
        'd_fails/a.py': '1 / 0\n',
        'd_fails/b.py': MODEL,
        'e_docs/README.md': '',
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / 'toy_methods/__init__.py').touch()
    monkeypatch.syspath_prepend(tmp_path)
    return 'toy_methods'


def test_each_method_is_there_by_its_first_config_with_a_backbone(package: str) -> None:
    assert sweep_configs.chosen(package) == [
        'toy_methods::a_inherits/a.py',
        'toy_methods::b_plain/b.py',
        'toy_methods::c_none/a.py',
        'toy_methods::d_fails/b.py',
    ]


@pytest.mark.parametrize(('number', 'chosen'), [(1, 'a'), (2, 'ac'), (3, 'abc'), (9, 'abcd')])
def test_a_sample_is_spread_over_all_methods(package: str, number: int, chosen: str) -> None:
    found = sweep_configs.chosen(package, number)
    assert ''.join(sweep_configs.split(config)[1][0] for config in found) == chosen


class Trials:
    """What stands in the place of processes."""

    def __init__(self) -> None:
        self.run: list[str] = []
        self.outcome: dict[str, Any] = dict(status='works', reason='', rules=['x: y'], lines=8)

    def __call__(self, config: str, backbone: str | None, *_: Any) -> dict[str, Any]:
        if backbone is None:
            return dict(status='works', reason='')
        self.run.append(config)
        return self.outcome


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    trials = Trials()
    monkeypatch.setattr(sweep_configs, 'run_trial', trials)
    return trials


def test_a_sweep_goes_on_where_it_stopped(trials: Trials, tmp_path: Path) -> None:
    out = tmp_path / 'results/out.jsonl'
    names = ['p::a/1.py', 'p::b/1.py', 'p::c/1.py']
    sweep = sweep_configs.sweep(names, 'one', out)
    next(sweep)
    sweep.close()
    with out.open('a') as file:  # the machine stopped while a line was written
        file.write('{"backbone": "one", "con')
    done = {config for _, config in sweep_configs.read_results(out)}
    trials.run.clear()
    list(sweep_configs.sweep(names, 'one', out))
    assert sorted(trials.run) == sorted({*names} - done)
    assert {config for _, config in sweep_configs.read_results(out)} == {*names}
    trials.run.clear()
    list(sweep_configs.sweep(names, 'one', out))
    assert trials.run == []
    list(sweep_configs.sweep(names, 'another', out))
    assert trials.run == names


def test_what_failed_is_done_again_if_asked(trials: Trials, tmp_path: Path) -> None:
    out = tmp_path / 'out.jsonl'
    trials.outcome = dict(status='failed', reason='step: a')
    list(sweep_configs.sweep(['p::a/1.py'], 'one', out))
    trials.outcome = dict(status='works', reason='', rules=[], lines=3)
    list(sweep_configs.sweep(['p::a/1.py', 'p::b/1.py'], 'one', out))
    trials.run.clear()
    list(sweep_configs.sweep(['p::a/1.py', 'p::b/1.py'], 'one', out, again=['failed']))
    assert trials.run == ['p::a/1.py']
    assert sweep_configs.read_results(out)['one', 'p::a/1.py']['status'] == 'works'


def test_a_failure_is_the_frameworks_own_if_the_original_fails_likewise() -> None:
    failed = dict(status='failed', reason='build: ImportError: no x')
    other = dict(status='failed', reason='step: ValueError: y')
    works = dict(status='works', reason='')
    refused = dict(status='refused', reason='z')
    assert sweep_configs.judged(failed, dict(failed))['status'] == 'framework'
    assert sweep_configs.judged(failed, other)['status'] == 'failed'
    assert sweep_configs.judged(failed, works)['status'] == 'failed'
    assert sweep_configs.judged(refused, dict(failed)) == {**refused, 'original': failed['reason']}


def test_a_process_that_dies_or_lasts_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> None:
        os.write(2, b'a last word\n')
        os._exit(7)

    monkeypatch.setattr(sweep_trial, 'trial', dies)
    found = sweep_configs.run_trial('p::a/1.py', 'one', 60)
    assert found == dict(status='failed', reason='ended with status 7: a last word')
    over = lambda *_: os.kill(os.getpid(), signal.SIGXCPU)  # noqa: E731  as the limit does
    monkeypatch.setattr(sweep_trial, 'trial', over)
    found = sweep_configs.run_trial('p::a/1.py', 'one', 60)
    assert (found['status'], found['reason'][:27]) == ('failed', 'not done after 60 s of one ')


#: Config, backbone, what becomes of it, rules that must have acted, words of the reason.
SAMPLE = [
    ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 'shvit_s1', 'works', 'frozen neck', ''),
    ('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 'sepvit_lite', 'works', 'pixels', ''),
    ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', 'casvit_xs', 'works', 'schedule pixels', ''),
    ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'shvit_s1', 'works', 'maps', ''),
    ('mmdet::detr/detr_r18_8xb2-500e_coco.py', 'sepvit_lite', 'works', 'channels decay', ''),
    ('mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', 'sepvit_lite', 'works', '', ''),
    ('mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py', 'gcvit_xxtiny', 'works', 'channels', ''),
    ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'casvit_xs', 'works', 'optimizer', ''),
    ('mmdet::detectors/cascade-rcnn_r50-rfp_1x_coco.py', 'sepvit_lite', 'refused', '', 'atrous'),
    ('mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py', 'sepvit_lite', 'works', 'maps', ''),
    (
        'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
        'supervit_deit_s',
        'works',
        'channels',
        '',
    ),
    (
        'mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py',
        'casvit_xs',
        'works',
        'pretrained channels',
        '',
    ),
    (
        'mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py',
        'sepvit_lite',
        'warning',
        'maps',
        'FastSCNN',
    ),
    (
        'mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
        'sepvit_lite',
        'refused',
        '',
        'branches',
    ),
]


@pytest.mark.parametrize(
    ('config', 'backbone', 'status', 'rules', 'reason'), SAMPLE, ids=lambda value: value[:30]
)
def test_a_sample_of_the_methods(
    config: str,
    backbone: str,
    status: str,
    rules: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = sweep_trial.trial(config, backbone)
    assert (result['status'], reason in result['reason']) == (status, True), result
    acted = {rule.partition(':')[0] for rule in result.get('rules', ())}
    assert acted >= {*rules.split()}
    assert result.get('lines', 0) <= 40


def test_the_page_has_a_row_for_each_method_and_counts(tmp_path: Path) -> None:
    results = [
        dict(
            backbone='sepvit_lite',
            config='mmdet::fcos/fcos.py',
            status='works',
            reason='',
            rules=['channels: neck.in_channels [1] -> [2]'],
            lines=6,
            seconds=9.0,
            commit='abc',
        ),
        dict(
            backbone='shvit_s1',
            config='mmdet::fcos/fcos.py',
            status='refused',
            reason='it has | bars',
            seconds=9.0,
            commit='abc',
        ),
    ]
    text = sweep_table.page(results)
    assert '| fcos |' in text
    assert 'bars' in text
    assert r'\|' in text
    assert 'sepvit_lite' in text
    assert 'abc' in text
