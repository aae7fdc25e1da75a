"""Training from a config: completing it, where it starts or resumes, and running it."""

from __future__ import annotations

import copy
import errno
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vitbackbones.checkpoint import (
    is_address,
    local_file,
    read_checkpoint,
    require_exact_match,
)
from vitbackbones.data.before_training import check_annotations
from vitbackbones.data.configs import as_list
from vitbackbones.data.nodes import type_name
from vitbackbones.engine.non_finite import NonFiniteError
from vitbackbones.engine.preflight import PreflightError
from vitbackbones.engine.ranks import linked_ranks
from vitbackbones.engine.resume_point import (
    missing_for_resuming,
    require_same_on_all_ranks,
    resume_point,
)
from vitbackbones.errors import UserError, notice
from vitbackbones.pretrained import translate_for_finetuning

from .batch import notice_batch
from .built import as_built, build_runner
from .checks import check_config, require, trains_ours
from .classes import check_start, use_one_order
from .device import let_processes_meet
from .loading import config_path

# Names of version 0.1 that configs may still have; they go in 0.3.
FORMER_HOOKS = {'BadNumbersHook': 'NonFiniteHook'}
SPLITS = ('train', 'val')


def train(written: Config, resume: str | None = None) -> None:
    """Train as a config says.

    Args:
        written: with ``work_dir`` and ``launcher``; hooks and imports of ours are added to it.
        resume: 'auto' for the newest checkpoint of the work directory, a file, or None for what
            the config says.

    Raises:
        UserError: the config or the data are not right, or the model cannot be trained.
        CheckpointError: the file to resume from, or the pre-trained weights, cannot be used; or
            a checkpoint cannot be written.
        SystemExit: a signal ended the training.
    """
    add_hooks(written)
    add_import(written)
    cfg = copy.deepcopy(written)  # where one run starts is no part of what was written
    start = starting_point(cfg, resume)
    let_processes_meet(cfg)
    with linked_ranks():
        run(trainer(written, cfg, start))


def trainer(written: Config, cfg: Config, start: dict[str, Any] | None) -> Runner:
    """A Runner that is ready to train, after all checks that need no built model.

    Args:
        written: as :func:`train` has completed it.
        cfg: a copy of it, which says where this run starts.
        start: the content of the file to start or resume from, see :func:`starting_point`.

    Raises:
        UserError: the config or the data are not right.
        CheckpointError: the file to resume from does not fit.
    """
    # Before the Runner: processes without a seed, which is in the checkpoint, would wait for one.
    require_same_on_all_ranks(
        cfg.get('load_from'), start['meta'] if start and cfg.get('resume') else {}
    )
    require(cfg, 'train_dataloader', 'train_cfg', 'optim_wrapper')
    check_config(cfg, SPLITS)
    use_one_order(cfg, SPLITS)
    if start is not None:
        check_start(cfg, start, cfg.load_from)
    check_annotations(cfg, SPLITS)
    notice_batch(cfg, get_world_size())
    runner = build_runner(as_built(cfg, SPLITS), written, training=True)
    if cfg.get('resume') and start is not None:
        require_exact_match(runner.model, start, cfg.load_from)
    elif cfg.get('load_from'):
        runner.register_hook(StartHook(cfg.load_from))
    return runner


def run(runner: Runner) -> None:
    """Train, with errors that are the user's to fix as one sentence.

    Raises:
        UserError: the model cannot be trained, or the disk is full.
    """
    try:
        runner.train()
    except (PreflightError, NonFiniteError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f'{error.filename or runner.work_dir}: {error.strerror}; make room and go on with '
            '--resume'
        ) from error


class StartHook(Hook):
    """Start from the weights of another detector or segmentor, its backbone's being complete.

    mmengine takes what it finds under ``state_dict`` and goes on without what has another name.
    Averages start where the weights do: those in the file are of its own names and classes.
    """

    priority = 'VERY_HIGH'  # before other hooks, EMAHook for one, read the weights

    def __init__(self, source: str) -> None:
        self.source = source

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint['state_dict'] = translate_for_finetuning(runner.model, checkpoint, self.source)
        checkpoint.pop('ema_state_dict', None)


def add_hooks(cfg: Config) -> None:
    """Add those of our hooks that the config does not name; preflight with our backbones only.

    Which these are is said once, in the file that all our configs inherit.
    """
    hooks = cfg.get('custom_hooks') or []
    named = {FORMER_HOOKS.get(name, name) for name in map(type_name, hooks)}
    if not trains_ours(cfg.get('model')):
        named.add('PreflightHook')
    shipped = Config.fromfile(config_path('vitbackbones::_base_/hooks.py')).custom_hooks
    cfg.custom_hooks = [*hooks, *(hook for hook in shipped if type_name(hook) not in named)]


def add_import(cfg: Config) -> None:
    """Let whoever reads the config, or finds it in a checkpoint, import this package first."""
    own = cfg.get('custom_imports') or {}
    names = as_list(own.get('imports'))
    if not any(name.partition('.')[0] == 'vitbackbones' for name in names):
        names.insert(0, 'vitbackbones')
    failing = own.get('allow_failed_imports', False)
    cfg.custom_imports = ConfigDict(imports=names, allow_failed_imports=failing)


def use_amp(cfg: Config) -> None:
    """Turn the config's optimizer wrapper into mmengine's mixed-precision one.

    Raises:
        UserError: the config has an optimizer wrapper of another kind.
    """
    wrapper = cfg.optim_wrapper
    if (type_name(wrapper) or 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(f'--amp replaces OptimWrapper, but the config has {type_name(wrapper)}')
    wrapper.type = 'AmpOptimWrapper'
    wrapper.setdefault('loss_scale', 'dynamic')


def starting_point(cfg: Config, source: str | None) -> dict[str, Any] | None:
    """Set what mmengine resumes or starts from; that file's content, None without one.

    Args:
        source: of ``--resume``: 'auto', a file, or None, which leaves the config as it is.
    """
    if source == 'auto' or (source is None and cfg.get('resume') and not cfg.get('load_from')):
        newest = resume_point(cfg.work_dir, notice)
        if newest is not None:
            cfg.resume, cfg.load_from = True, newest
        elif not cfg.get('load_from'):
            cfg.resume = False  # DurableHook would look for one again
    elif source is not None:
        cfg.resume, cfg.load_from = True, source
    path = cfg.get('load_from')
    if not path or ('://' in path and not is_address(path)):
        return None
    checkpoint = read_checkpoint(path)
    cfg.load_from = local_file(path)  # mmengine would download it once more, and run what came
    if cfg.load_from.endswith('.safetensors'):
        raise UserError(
            f'{path}: mmengine starts from files of torch; `vitbackbones convert {path} start.pth` '
            'makes one'
        )
    missing = missing_for_resuming(checkpoint)
    if cfg.get('resume') and missing:
        raise UserError(
            f'{path} holds no {missing}, which resuming needs; to start from its weights use '
            f'--cfg-options load_from={path}'
        )
    if cfg.get('resume'):
        keep_seed(cfg, checkpoint['meta'])
    return checkpoint


def keep_seed(cfg: Config, meta: dict[str, Any]) -> None:
    """Shuffle as the interrupted run did, where the config has no seed.

    mmengine takes the seed over from a checkpoint, but only after it has made the samplers with
    another one: images would be trained twice in an epoch, and others not at all.
    """
    if (cfg.get('randomness') or {}).get('seed') is None and meta.get('seed') is not None:
        cfg.randomness = ConfigDict({**(cfg.get('randomness') or {}), 'seed': meta['seed']})
