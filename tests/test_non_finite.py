"""Losses that are NaN or infinite: what is skipped, when training ends, and what it says then."""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import Tensor, multiprocessing, nn

from tests.toy_training import BATCH, PER_EPOCH, Model, Samples, make_runner
from vitbackbones.engine.non_finite import BadNumbersHook, NonFiniteError, NonFiniteHook
from vitbackbones.launch.training import add_hooks

HOOKS = [dict(type='vitbackbones.DurableHook'), dict(type='vitbackbones.NonFiniteHook')]


def snapshot(runner: Runner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


class Spoil(Hook):
    """Spoils the number of the first sample in the batches of some iterations, counted from 1."""

    def __init__(self, *iterations: int, value: float = math.nan, key: str = 'number') -> None:
        self.iterations, self.value, self.key = iterations, value, key
        self.before: dict[str, Tensor] = {}
        self.states: list[dict[str, Tensor]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.states.append(snapshot(runner))
        if runner.iter + 1 in self.iterations:
            data_batch[self.key][0] = data_batch[self.key][0] * self.value


def train(work_dir: Path, *spoilt: int, **options: Any) -> tuple[Runner, Spoil]:
    chosen = {key: options.pop(key) for key in ('value', 'key') if key in options}
    spoil = Spoil(*spoilt, **chosen)
    runner = make_runner(work_dir, **{'custom_hooks': [*HOOKS, spoil], **options})
    runner.train()
    spoil.states.append(snapshot(runner))
    return runner, spoil


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('key', ['number', 'inputs'], ids=['loss', 'input'])
def test_a_bad_iteration_changes_neither_weights_nor_statistics(
    value: float, key: str, tmp_path: Path
) -> None:
    runner, spoil = train(tmp_path, 4, value=value, key=key)
    for name, tensor in spoil.states[4].items():
        assert torch.equal(tensor, spoil.states[3][name]), name
    assert not torch.equal(spoil.states[4]['stem.weight'], spoil.states[5]['stem.weight'])
    assert runner.iter == 3 * PER_EPOCH
    assert all(tensor.isfinite().all() for tensor in spoil.states[-1].values())


@OPTIM_WRAPPERS.register_module()
class ScaledOnCPU(AmpOptimWrapper):
    """mmengine's wrapper with loss scaling, which it refuses without a GPU."""

    def __init__(self, scale: float = 1024.0, fixed: bool = False, **options: Any) -> None:
        super(AmpOptimWrapper, self).__init__(**options)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale)
        self._scale_update_param = scale if fixed else None
        self.cast_dtype = torch.bfloat16


def test_mixed_precision_skips_the_step_and_lowers_the_scale(tmp_path: Path) -> None:
    wrapper = dict(type=ScaledOnCPU, optimizer=dict(type='AdamW', lr=1e-2))
    runner, spoil = train(tmp_path, 4, 6, optim_wrapper=wrapper)
    for i in (4, 6):
        for name, tensor in spoil.states[i].items():
            assert torch.equal(tensor, spoil.states[i - 1][name]), name
    assert runner.optim_wrapper.loss_scaler.get_scale() == 256


def test_overflowing_gradients_of_scaled_losses_do_not_count(tmp_path: Path) -> None:
    wrapper = dict(type=ScaledOnCPU, optimizer=dict(type='AdamW', lr=1e-2))
    runner = make_runner(tmp_path, custom_hooks=HOOKS, optim_wrapper=wrapper)
    runner.optim_wrapper = runner.build_optim_wrapper(wrapper)
    runner.optim_wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=1e38 * 3)
    runner.train()  # at first every step overflows
    assert runner.optim_wrapper.loss_scaler.get_scale() < 1e38


def test_three_in_a_row_end_training_and_two_do_not(tmp_path: Path) -> None:
    train(tmp_path / 'a', 3, 4, 6, 7, 9, 10)
    with pytest.raises(
        NonFiniteError, match=r'iteration 5: loss is nan \(3 in a row\): training ends'
    ):
        train(tmp_path / 'b', 3, 4, 5)


class Steep(Model):
    """A finite loss with a gradient that is none, in all iterations or in some, counted from 1."""

    def __init__(self, *iterations: int) -> None:
        super().__init__()
        self.iterations, self.passes = iterations, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        losses = super().forward(*args, **kwargs)
        self.passes += 1
        if not self.iterations or self.passes in self.iterations:
            losses['loss'] = losses['loss'] + (0 * self.head.bias).sqrt().sum()
        return losses


def test_infinite_gradients_of_a_finite_loss_count_as_well(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match='iteration 3: a gradient is not finite'):
        train(tmp_path, model=Steep(), validate=False)


def scaled(scale: float, fused: bool = False, **options: Any) -> dict[str, Any]:
    optimizer = dict(type='AdamW', lr=1e-2, fused=fused)
    return dict(type=ScaledOnCPU, optimizer=optimizer, scale=scale, **options)


@pytest.mark.parametrize('every', [1, 2], ids=['each iteration', 'each second one'])
def test_gradients_that_no_loss_scale_makes_finite_end_training(every: int, tmp_path: Path) -> None:
    wrapper = scaled(2**-7, accumulative_counts=every)  # below 2**-10 after four overflows
    last = 4 * every + 2
    expected = rf'iteration {last}: gradients overflow at a loss scale of \S+ \(3 in a row\)'
    with pytest.raises(NonFiniteError, match=expected):
        train(tmp_path, model=Steep(), validate=False, optim_wrapper=wrapper)


@pytest.mark.parametrize('fused', [False, True], ids=['', 'fused'])
def test_overflows_at_a_fixed_loss_scale_count(fused: bool, tmp_path: Path) -> None:
    def run(name: str, *iterations: int) -> None:
        model, wrapper = Steep(*iterations), scaled(512.0, fused, fixed=True)
        train(tmp_path / name, model=model, validate=False, optim_wrapper=wrapper)

    run('a', 1, 2, 4, 5)
    expected = r"iteration 6: gradients overflow at loss_scale=512; 'dynamic' .* it \(3 in a row\)"
    with pytest.raises(NonFiniteError, match=expected):
        run('b', 1, 2, 4, 5, 6)


def test_a_fixed_loss_scale_bears_gradients_that_add_up(tmp_path: Path) -> None:
    wrapper = scaled(512.0, fixed=True, accumulative_counts=5)
    runner, _ = train(tmp_path, validate=False, optim_wrapper=wrapper)
    assert runner.iter == 3 * PER_EPOCH


def test_the_patience_is_chosen(tmp_path: Path) -> None:
    hooks = [HOOKS[0], dict(type='vitbackbones.NonFiniteHook', patience=1), Spoil(4)]
    with pytest.raises(NonFiniteError, match='iteration 4: '):
        make_runner(tmp_path, custom_hooks=hooks).train()
    with pytest.raises(ValueError, match='patience=0 must be at least 1'):
        NonFiniteHook(patience=0)


def message(work_dir: Path, *spoilt: int, **options: Any) -> str:
    with pytest.raises(NonFiniteError) as caught:
        train(work_dir, *spoilt, **options)
    return str(caught.value)


def test_the_last_good_checkpoint_is_named(tmp_path: Path) -> None:
    assert 'last good checkpoint: none' in message(tmp_path / 'a', 1, 2, 3)
    text = message(tmp_path / 'b', 11, 12, 13)
    assert f'last good checkpoint: {tmp_path}/b/epoch_2.pth (--resume goes on from it)' in text
    content = torch.load(tmp_path / 'b' / 'epoch_2.pth', weights_only=True)
    assert all(value.isfinite().all() for value in content['state_dict'].values())


def test_the_images_of_the_batch_are_named(tmp_path: Path) -> None:
    class See(Hook):
        paths: list[str]

        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            self.paths = [sample.img_path for sample in data_batch['data_samples']]

    see = See()
    text = message(tmp_path, 2, 3, 4, custom_hooks=[*HOOKS, see, Spoil(2, 3, 4)])
    assert len(see.paths) == BATCH
    assert f'images: {", ".join(see.paths)}\n' in text


class Bad(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0


def test_the_first_module_with_a_bad_output_is_named(tmp_path: Path) -> None:
    model = Model()
    model.norm = nn.Sequential(nn.BatchNorm1d(8), Bad(), nn.ReLU())
    text = message(tmp_path, model=model)
    assert text.endswith('first module with a non-finite output: norm.1 (Bad)')


def test_bad_weights_and_bad_inputs_are_told_apart(tmp_path: Path) -> None:
    model = Model()
    nn.init.constant_(model.stem.bias, math.inf)
    text = message(tmp_path / 'a', model=model)
    assert text.endswith('stem (Linear), whose weights are not finite: bias')
    text = message(tmp_path / 'b', 1, 2, 3, key='inputs')
    assert text.endswith('data_preprocessor (BaseDataPreprocessor), whose input was not finite')


def test_modules_are_watched_only_before_the_end(tmp_path: Path) -> None:
    model = Model()
    watched = []

    class Count(Spoil):
        priority = 'LOW'

        def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
            super().before_train_iter(runner, *args, **kwargs)
            watched.append(len(model.stem._forward_hooks))

    make_runner(tmp_path, model=model, custom_hooks=[*HOOKS, Count(3, 4)]).train()
    assert watched == [0, 0, 0, 0, 1, *[0] * (3 * PER_EPOCH - 5)]
    assert not model.stem._forward_hooks


def test_a_bad_image_that_returns_once_an_epoch_does_not_end_training(tmp_path: Path) -> None:
    data = Samples(bad={5: math.nan})
    runner = make_runner(tmp_path, custom_hooks=HOOKS, dataset=data, validate=False)
    assert all(value.isfinite().all() for value in runner.train().state_dict().values())


def _train_as_one_of_two(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    place = dict(
        MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=2, RANK=rank, LOCAL_RANK=rank
    )
    os.environ |= {key: str(value) for key, value in place.items()}
    torch.distributed.init_process_group('gloo')
    spoil = Spoil(*((2, 5, 6, 7) if rank else ()))
    runner = make_runner(
        folder,
        custom_hooks=[*HOOKS, spoil],
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
    )
    try:
        runner.train()
    except NonFiniteError as error:
        same = all(
            torch.equal(a, b) for a, b in zip(*map(dict.values, spoil.states[1:3]), strict=True)
        )
        Path(folder, f'{rank}.txt').write_text(f'{same}: {error}')


def test_processes_skip_and_end_together(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(
        _train_as_one_of_two, (port, tmp_path), nprocs=2, start_method='fork'
    )
    good, bad = ((tmp_path / f'{rank}.txt').read_text() for rank in (0, 1))
    assert good.startswith('True: iteration 7: ')
    assert bad.startswith('True: iteration 7: loss is nan (3 in a row): training ends')


# ------------------------------------------------------------------------------ the old name


@pytest.mark.parametrize('name', ['BadNumbersHook', 'vitbackbones.BadNumbersHook'])
def test_the_name_of_version_0_1_works_and_warns(name: str) -> None:
    with pytest.warns(FutureWarning, match='called NonFiniteHook now.* goes in version 0.3'):
        hook = ROOT_HOOKS.build(dict(type=name, patience=5))
    assert isinstance(hook, NonFiniteHook)
    assert hook.patience == 5
    with pytest.raises(ValueError, match='patience=0'), pytest.warns(FutureWarning):
        ROOT_HOOKS.build(dict(type=name, patience=0))


@pytest.mark.parametrize('name', ['BadNumbersHook', 'vitbackbones.BadNumbersHook', BadNumbersHook])
def test_a_config_with_the_old_name_gets_no_second_hook(name: Any) -> None:
    cfg = Config(dict(custom_hooks=[dict(type=name, patience=2)]))
    add_hooks(cfg)
    added = [hook.type for hook in cfg.custom_hooks[1:]]
    assert added == ['vitbackbones.DurableHook', 'vitbackbones.ZeroLossHook']
