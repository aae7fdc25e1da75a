"""Losses that stay exactly 0: which ones are named, and when."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import multiprocessing

from tests.toy_training import BATCH, EPOCHS, LENGTH, Model, make_runner
from vitbackbones.engine.zero_losses import ZeroLossHook


def warnings_of(hook: Hook, iterations: list[dict[str, float]]) -> list[str]:
    """What the hook says of losses by iteration."""
    said: list[str] = []
    runner: Any = SimpleNamespace(logger=SimpleNamespace(warning=said.append), iter=0)
    for losses in iterations:
        outputs = {name: torch.tensor(value) for name, value in losses.items()}
        hook.after_train_iter(runner, runner.iter, None, outputs)
        runner.iter += 1
    return said


def rows(name: str, *values: float, length: int = 200) -> list[dict[str, float]]:
    """Losses of an iteration each: those of ``values``, then 1."""
    values = (*values, *[1.0] * (length - len(values)))
    return [{'loss': 1.0, name: value} for value in values]


CLASSIFICATION = (
    'loss_cls',
    'loss_rpn_cls',
    's0.loss_cls',
    'd3.loss_cls',
    'enc_loss_cls',
    'dn_loss_cls',
    'loss_obj',
    'loss_conf',
    'loss_center_heatmap',
    'loss_semantic_seg',
    'decode.loss_ce',
    'decode_1.loss_ce',
    'aux.loss_ce',
    'aux_0.d2.loss_cls',
)
OTHERS = (
    'loss_bbox',
    'loss_rpn_bbox',
    'loss_bbox_cls',
    's1.loss_bbox',
    'loss_mask',
    'loss_iou',
    'loss_centerness',
    'loss_dfl',
    'decode.acc_seg',
    's0.acc',
)


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_a_classification_loss_of_0_is_named_once(name: str) -> None:
    (said,) = warnings_of(ZeroLossHook(), rows(name, *[0.0] * 180))
    assert said.startswith(f'{name} was exactly 0 in 50 iterations in a row')


@pytest.mark.parametrize('name', OTHERS)
def test_other_losses_may_be_0(name: str) -> None:
    assert warnings_of(ZeroLossHook(), rows(name, *[0.0] * 180)) == []


def test_the_sum_of_all_losses_is_named() -> None:
    (said,) = warnings_of(ZeroLossHook(), [dict(loss=0.0, loss_bbox=0.0)] * 60)
    assert said.startswith('the sum of all losses was exactly 0')


@pytest.mark.parametrize(
    ('values', 'named'),
    [
        ([0.0] * 49, False),
        ([0.0] * 50, True),
        ([1.0] * 30 + [0.0] * 49, False),
        ([1.0] * 30 + [0.0] * 50, True),
        ([1.0] * 30 + [0.0] * 120, True),
        ([0.0] * 40 + [1e-30] + [0.0] * 49, False),
        ([-0.0] * 50, True),
        ([float('nan')] * 60, False),
    ],
)
def test_it_takes_50_in_a_row(values: list[float], named: bool) -> None:
    assert len(warnings_of(ZeroLossHook(), rows('loss_cls', *values))) == named


def test_a_loss_of_some_iterations_counts_where_it_is() -> None:
    iterations = rows('loss_cls', *[0.0] * 110)
    for losses in iterations[::2]:
        del losses['loss_cls']
    assert len(warnings_of(ZeroLossHook(), iterations)) == 1
    assert warnings_of(ZeroLossHook(), iterations[12:]) == []


class Nothing(Model):
    """As the toy model, but its loss of classes is 0."""

    def forward(self, *args: Any, mode: str = 'loss', **kwargs: Any) -> Any:
        output = super().forward(*args, mode=mode, **kwargs)
        if mode != 'loss':
            return output
        return dict(loss_bbox=output['loss'], loss_cls=output['loss'] * 0)


@pytest.mark.parametrize('accumulative_counts', [1, 3])
def test_a_training_is_warned_of_it(
    accumulative_counts: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runner = make_runner(
        tmp_path,
        model=Nothing(),
        log_level='WARNING',
        custom_hooks=[dict(type='vitbackbones.ZeroLossHook', patience=5)],
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=1e-2), accumulative_counts=accumulative_counts
        ),
    )
    runner.train()
    assert runner.iter == EPOCHS * LENGTH // BATCH
    said = capfd.readouterr().out
    assert said.count('loss_cls was exactly 0 in 5 iterations in a row (up to iteration 5)') == 1
    assert said.count('exactly 0') == 1


def test_a_patience_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match='patience=0 must be at least 1'):
        HOOKS.build(dict(type='vitbackbones.ZeroLossHook', patience=0))


def _one_of_two(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    place = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=2, RANK=rank)
    os.environ |= {key: str(value) for key, value in place.items()}
    torch.distributed.init_process_group('gloo')
    iterations = [
        {
            'loss': 1.0,
            'decode.loss_ce': 0.0,  # in both processes
            'loss_cls': float(i % 40 == 0 and rank),  # in the other one now and then
            **({'loss_obj': 0.0} if rank else {}),  # in one alone
        }
        for i in range(100)
    ]
    said = warnings_of(ZeroLossHook(), iterations)
    Path(folder, f'{rank}.txt').write_text('\n'.join(said))
    torch.distributed.destroy_process_group()


def test_a_loss_must_be_0_in_all_processes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(_one_of_two, (port, tmp_path), nprocs=2, start_method='fork')
    for rank in (0, 1):
        said = (tmp_path / f'{rank}.txt').read_text().splitlines()
        assert [line.split()[0] for line in said] == ['decode.loss_ce', 'loss_obj']
