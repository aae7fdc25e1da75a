"""One file touches what mmengine keeps private: none other does, and it finds what it needs."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner

from tests.toy_training import make_runner
from vitbackbones.engine import mmengine_compat as compat

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'vitbackbones'
ONLY = PACKAGE / 'engine' / 'mmengine_compat.py'
MODULES = [path for path in sorted(PACKAGE.rglob('*.py')) if path != ONLY]
# Underscored attributes that are not mmengine's: of the standard library's and of torch's.
OTHERS = {'_asdict', '_exit', '_replace', '_iterator', '_modules', '_parameters'}
OTHERS |= {'_forward_hooks', '_forward_pre_hooks', '_load_from_state_dict'}
OTHERS |= {'_global_forward_hooks', '_global_forward_pre_hooks', '_conv_forward', '_assert_async'}
OTHERS |= {'_global_backward_hooks', '_global_backward_pre_hooks', '_softmax_backward_data'}
# torch has no public names for these: what watches a pass, and what its compiler takes for constant
OTHERS |= {'_C', '_len_torch_function_stack', '_len_torch_dispatch_stack'}
OTHERS |= {'_functorch', '_current_level', '_dynamo_marked_constant'}


def is_private(name: str) -> bool:
    return name.startswith('_') and not name.startswith('__')


def private_uses(code: str) -> set[str]:
    """Private attributes of anything but ``self`` and ``cls``."""
    return {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute)
        and is_private(node.attr)
        and ast.unparse(node.value) not in ('self', 'cls')
    }


@pytest.mark.parametrize('path', MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_other_module_touches_private_attributes(path: Path) -> None:
    assert private_uses(path.read_text(encoding='utf-8')) - OTHERS == set()


def test_private_attributes_are_seen() -> None:
    code = 'def f(self, runner):\n    self._own = runner.loop._iter\n    super()._save(self.x._y)\n'
    assert private_uses(code) == {'_iter', '_save', '_y'}


# ---------------------------------------------------------------- classes made of mmengine's


def derived() -> Iterator[type]:
    """Our classes that have one of mmengine's among their bases."""
    for path in MODULES:
        if 'mmengine' not in path.read_text(encoding='utf-8') or path.name == '__main__.py':
            continue
        name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        module = importlib.import_module(name.removesuffix('.__init__'))
        for cls in vars(module).values():
            if isinstance(cls, type) and cls.__module__ == module.__name__ and theirs(cls):
                yield cls


def theirs(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if base.__module__.partition('.')[0] == 'mmengine']


def private_names(cls: type) -> set[str]:
    """Those that a class defines or uses of itself."""
    text = inspect.getsource(cls)
    found = re.findall(r'\bself\.(_[a-z]\w*)|\bdef (_[a-z]\w*)', text)
    return {name for pair in found for name in pair if name}


@pytest.mark.parametrize('cls', derived(), ids=lambda cls: cls.__name__)
def test_no_class_has_a_private_name_of_those_it_is_made_of(cls: type) -> None:
    known = {name for base in theirs(cls) for name in private_names(base)}
    assert private_names(cls) & known == set()


# ------------------------------------------------------------------------ what it relies on


def test_a_runner_tells_what_it_was_given(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, randomness=dict(seed=1, diff_rank_seed=True))
    assert not compat.trains(runner)
    assert (compat.resumes(runner), compat.loaded_file(runner)) == (False, None)
    assert compat.has_seed_per_rank(runner)
    assert not compat.has_seed_per_rank(make_runner(tmp_path / 'b'))
    config = compat.train_dataloader_config(runner)
    assert config is not None
    assert config['batch_size'] == runner.train_dataloader.batch_size
    assert compat.trains(runner)
    assert compat.train_dataloader_config(runner) is config


def test_a_loader_that_is_built_has_no_config(tmp_path: Path) -> None:
    loader = make_runner(tmp_path).train_dataloader
    assert compat.train_dataloader_config(make_runner(tmp_path, train_dataloader=loader)) is None


def test_what_to_resume_from_can_be_set(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    compat.set_resume_file(runner, 'a.pth')
    assert (compat.resumes(runner), compat.loaded_file(runner)) == (True, 'a.pth')
    compat.set_resume_file(runner, None)
    assert (compat.resumes(runner), compat.loaded_file(runner)) == (False, None)


def test_counts_of_loops_and_wrappers_can_be_set(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    loop = IterBasedTrainLoop(
        runner, runner.train_dataloader, 9, val_interval=4, dynamic_intervals=[(5, 2)]
    )
    compat.set_iteration(loop, 6)
    compat.decide_val_interval(loop)
    assert (loop.iter, loop.val_interval) == (6, 2)
    runner.train()
    compat.set_inner_count(runner.optim_wrapper, 7)
    assert runner.optim_wrapper.inner_count == 7


@pytest.mark.parametrize(('scale', 'fixed'), [('dynamic', False), (512.0, True), ({}, False)])
def test_a_fixed_loss_scale_is_told_from_one_that_adapts(
    scale: Any, fixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        'mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True
    )
    runner = make_runner(tmp_path)
    runner.train()
    wrapper = AmpOptimWrapper(loss_scale=scale, optimizer=runner.optim_wrapper.optimizer)
    assert compat.has_fixed_loss_scale(wrapper) == fixed


def test_all_saving_passes_through_the_open_hook(tmp_path: Path) -> None:
    class Noting(compat.OpenCheckpointHook):
        def write_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
            steps.append(step)
            super().write_step(runner, step, meta)

        def write_best(self, runner: Runner, metrics: dict[str, Any]) -> None:
            best.append(metrics)
            super().write_best(runner, metrics)

    steps: list[int] = []
    best: list[dict[str, Any]] = []
    make_runner(tmp_path, default_hooks=dict(checkpoint=Noting(interval=1))).train()
    assert steps == [1, 2, 3]
    assert len(best) == 3
    assert {path.name for path in tmp_path.glob('*.pth')} == {f'epoch_{n}.pth' for n in steps}
