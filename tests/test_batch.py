"""What is said of a batch that the learning rate of a config is not for."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.config import Config

from vitbackbones.launch.batch import notice_batch

SCALE = '--auto-scale-lr scales it'


def said(capfd: pytest.CaptureFixture[str], processes: int, batch: int, **options: Any) -> str:
    scaling = dict(base_batch_size=16, enable=options.pop('enable', False))
    cfg = Config(
        dict(
            train_dataloader=dict(batch_size=batch),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4), **options),
            auto_scale_lr=scaling,
        )
    )
    notice_batch(cfg, processes)
    return capfd.readouterr().err


@pytest.mark.parametrize(
    ('processes', 'batch', 'options', 'words'),
    [
        (1, 2, {}, f'one has 2 images: {SCALE}, or optim_wrapper.accumulative_counts=8 makes up'),
        (4, 2, {}, f'one has 8 (4 x 2) images: {SCALE}, or optim_wrapper.accumulative_counts=2 '),
        (1, 12, {}, f'one has 12 images: {SCALE}; a rate of your own may stay\n'),
        (4, 16, {}, f'one has 64 (4 x 16) images: {SCALE}; a rate'),
        (
            *(1, 2, dict(accumulative_counts=4)),
            f'2 images, 4 of them for an update: {SCALE} as for 2, whatever is accumulated, or '
            'optim_wrapper.accumulative_counts=8 makes up for it',
        ),
    ],
)
def test_another_batch_is_said(
    processes: int, batch: int, options: Any, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    line = said(capfd, processes, batch, **options)
    assert 'the learning rate is for batches of 16 (auto_scale_lr.base_batch_size), and' in line
    assert words in line
    assert line.count('\n') == 1


@pytest.mark.parametrize(
    ('processes', 'batch', 'options'),
    [
        (8, 2, {}),
        (1, 16, {}),
        (1, 2, dict(accumulative_counts=8)),
        (8, 2, dict(accumulative_counts=2)),
        (1, 2, dict(enable=True)),
    ],
)
def test_nothing_is_said_where_the_rate_goes_with_the_batch(
    processes: int, batch: int, options: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said(capfd, processes, batch, **options) == ''


def test_a_config_without_a_base_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    notice_batch(Config(dict(train_dataloader=dict(batch_size=2), optim_wrapper={})), 1)
    assert capfd.readouterr().err == ''
