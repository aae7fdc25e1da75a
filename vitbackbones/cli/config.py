"""Configs for the command line: finding, changing and checking them before anything starts."""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import mmap
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.dist import init_dist
from mmengine.registry import DATASETS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing

from vitbackbones.backbones.base import Backbone

from .errors import UserError
from .overlay import apply_demo, fit_schedule

# Read by mmengine or by mmdet's and mmseg's tools from a config, besides the Runner's arguments.
_MORE_CONFIG_KEYS = {
    'activation_checkpointing',
    'auto_scale_lr',
    'compile',
    'default_scope',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
}


class KeyValue(DictAction):
    """``KEY=VALUE`` words; values are literals (numbers, booleans, None, lists), never code."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        for word in values:
            if '=' not in word:
                parser.error(f'{option_string}: expected KEY=VALUE, got {word!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, RecursionError) as error:  # brackets: unbalanced, or far too many
            parser.error(f'{option_string}: {error}')


def add_launcher_arguments(parser: argparse.ArgumentParser) -> None:
    """How the processes of a run were started."""
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='what started the processes of this run',
    )
    # torch.distributed.launch passes it; torchrun sets the environment instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that all commands with a config share."""
    parser.add_argument(
        'config', help="a config file, or one of ours as 'vitbackbones::detection/...'"
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValue,
        metavar='KEY=VALUE',
        help='change the config: model.backbone.with_cp=True optim_wrapper.optimizer.lr=1e-4',
    )
    parser.add_argument(
        '--demo',
        action='store_true',
        help='run on small generated pictures: no download, a short schedule, no published weights',
    )


def load_config(
    name: str, options: Mapping[str, Any] | None = None, *, demo: bool = False
) -> Config:
    """Read a config, lay the demo over it if asked, then apply ``--cfg-options``.

    Raises:
        UserError: the file is missing or fails, or an option cannot be applied.
    """
    path = config_path(name)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program of the user's: whatever it raises is theirs
        raise UserError(f'config {path} cannot be read: {type(error).__name__}: {error}') from error
    if 'model' not in cfg:
        raise UserError(f'config {path} describes no model, only: {", ".join(cfg) or "nothing"}')
    if demo:
        apply_demo(cfg)
    if options:
        _apply_options(cfg, options)
    if demo and not any(key.startswith('param_scheduler') for key in options or ()):
        fit_schedule(cfg)
    cfg.setdefault('default_scope', 'mmdet')
    return cfg


def config_path(name: str) -> Path:
    """The file of ``name``: a path, or ``package::relative/path.py`` below its shipped configs."""
    package, separator, relative = name.rpartition('::')
    if separator:
        spec = find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f'config {name!r}: there is no installed package {package!r}')
        folder = Path(spec.submodule_search_locations[0], '.mim', 'configs')
        path = folder / relative
    else:
        path = Path(name)
        folder = path.parent
    if path.is_file():
        return path
    pattern = '**/*.py' if separator else '*.py'
    choices = sorted(p.relative_to(folder).as_posix() for p in folder.glob(pattern))
    near = difflib.get_close_matches(relative if separator else path.name, choices, cutoff=0.5)
    hint = f'; did you mean {" or ".join(near)}?' if near else ''
    raise UserError(f'there is no config file {path}{hint}')


def work_dir(cfg: Config, name: str, chosen: str | None, *, demo: bool) -> str:
    """Where a run writes: the option, else the config's own, else ``work_dirs/<config>[_demo]``."""
    default = f'work_dirs/{config_path(name).stem}{"_demo" if demo else ""}'
    return chosen or cfg.get('work_dir') or default


def _apply_options(cfg: Config, options: Mapping[str, Any]) -> None:
    known = set(inspect.signature(Runner.__init__).parameters) | _MORE_CONFIG_KEYS
    for key in options:
        first = key.split('.')[0]
        if first in known:
            continue
        near = difflib.get_close_matches(first, known)
        hint = f'did you mean {near[0]}?' if near else f'choose from {", ".join(sorted(known))}'
        if first in cfg:  # `data_root` and the like are read while the file is, not afterwards
            places = [path for path, value in _flat(cfg, '') if value == cfg[first]]
            hint = f'it is a variable of the config file; its value is at {", ".join(places)}'
        raise UserError(f'--cfg-options {key}: nothing reads {first!r}; {hint}')
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f'--cfg-options {dict(options)} cannot be applied: {error}') from error


def _flat(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value below ``node`` that is no container, with its dotted path."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in pairs:
        place = f'{path}.{key}' if path else str(key)
        if isinstance(value, (dict, list)):
            yield from _flat(value, place)
        elif path:
            yield place, value


# ------------------------------------------------------------------- the machine at hand


def adapt_to_device(cfg: Config) -> None:
    """Replace what needs a GPU, where there is none, and say so."""
    dist = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    gpu = torch.cuda.is_available()
    if (not gpu or dist.get('backend') == 'gloo') and _replace_norm(cfg.model, 'SyncBN', 'BN'):
        say(f'{"gloo" if gpu else "no GPU"}: SyncBN becomes BN')
    if gpu:
        if cfg.get('launcher', 'none') != 'none':
            _let_processes_meet(cfg)
        return
    wrapper = cfg.get('optim_wrapper') or ConfigDict()
    if wrapper.get('type') == 'AmpOptimWrapper':
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        wrapper.type = 'vitbackbones.CPUAmpOptimWrapper'
        say('no GPU: AmpOptimWrapper becomes bfloat16 autocast without loss scaling')
    if cfg.get('launcher', 'none') != 'none':
        _use_gloo(cfg)


def _let_processes_meet(cfg: Config) -> None:
    """What the Runner does first, before the checks: one that fails there tells the others."""
    env = cfg.get('env_cfg') or {}
    set_multi_processing(**(env.get('mp_cfg') or {}), distributed=True)
    if not torch.distributed.is_initialized():
        init_dist(cfg.launcher, **(env.get('dist_cfg') or {}))


def _use_gloo(cfg: Config) -> None:
    """Start the processes' communication, which mmengine 0.10.7 only does where there are GPUs."""
    if cfg.launcher != 'pytorch':
        raise UserError(f'--launcher {cfg.launcher} needs GPUs; without them, use pytorch')
    if 'RANK' not in os.environ:
        raise UserError('--launcher pytorch is for processes that torchrun starts, as dist_*.sh do')
    say('no GPU: processes talk through gloo')
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    # mmengine's default names a GPU for each process.
    cfg.setdefault(
        'model_wrapper_cfg',
        ConfigDict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        ),
    )


def say(message: str) -> None:
    """One line on standard error, from the first process only."""
    if os.environ.get('RANK', '0') == '0':
        print(f'vitbackbones: {message}', file=sys.stderr)


def _replace_norm(node: Any, old: str, new: str) -> int:
    """Replace a norm's type everywhere below ``node``; how many were replaced."""
    if isinstance(node, dict):
        count = sum(_replace_norm(value, old, new) for value in node.values())
        if node.get('type') == old:
            node['type'] = new
            count += 1
        return count
    return sum(_replace_norm(v, old, new) for v in node) if isinstance(node, (list, tuple)) else 0


# ---------------------------------------------------------------------- before the start


def check_config(cfg: Config, splits: Sequence[str]) -> None:
    """Find the user's slips before mmengine trips over them.

    Args:
        splits: those of 'train', 'val', 'test' that are about to be used.

    Raises:
        UserError: unknown backbone or backbone option, missing data, or class names that the
            annotations do not know.
    """
    build_backbone(cfg)
    for split in splits:
        if cfg.get(f'{split}_dataloader'):
            _check_data(cfg, split)


def build_backbone(cfg: Config) -> Backbone | None:
    """The config's backbone without memory for its weights; None if it is not one of ours.

    Raises:
        UserError: unknown type, option or value.
    """
    options = dict(cfg.model.get('backbone') or {})
    options.pop('_scope_', None)
    name = options.pop('type', None)
    cls = ROOT_MODELS.get(name) if isinstance(name, str) else name
    if not (inspect.isclass(cls) and issubclass(cls, Backbone)):
        return None  # of another package, which reports its own errors
    known = list(inspect.signature(cls).parameters)
    for key in options:
        if key not in known:
            raise UserError(f'{cls.__name__} has no option {key!r}, choose from {", ".join(known)}')
    try:
        with torch.device('meta'):
            return cls(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f'model.backbone: {error}; its options are {options}') from error


def require(cfg: Config, *keys: str) -> None:
    """Raise UserError unless the config has all of ``keys``."""
    missing = [key for key in keys if not cfg.get(key)]
    if missing:
        raise UserError(f'the config has no {", ".join(missing)}; it has {", ".join(cfg)}')


def build_runner(cfg: Config, *, training: bool) -> Runner:
    """mmengine's Runner with everything built that it would build later from the config.

    Raises:
        UserError: an option that some class does not take, a value of the wrong kind, a folder
            that cannot be written.
    """
    try:
        runner = Runner.from_cfg(cfg)
        # mmengine builds a loop when its property is read.
        for loop in ('train_loop', 'val_loop') if training else ('test_loop',):
            getattr(runner, loop)
        if training:
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    except (AssertionError, AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise UserError(f'the config cannot be built: {error}') from error
    except OSError as error:
        raise UserError(f'{error.filename or cfg.work_dir}: {error.strerror or error}') from error
    return runner


def _check_data(cfg: Config, split: str) -> None:
    loader = f'{split}_dataloader'
    missing = []
    for dataset in leaves(cfg[loader].get('dataset') or {}):
        missing += [path for path in _paths(dataset) if _absent(path)]
    for evaluator in as_list(cfg.get(f'{split}_evaluator')):
        if evaluator.get('ann_file') and _absent(evaluator['ann_file']):
            missing.append(evaluator['ann_file'])
    if missing:
        paths = ', '.join(dict.fromkeys(missing))
        raise UserError(
            f'the {split} data set is not there: {paths} missing. Put it there, or name its place '
            f'with --cfg-options {loader}.dataset.data_root=DIR (evaluators have an ann_file of '
            'their own); --demo runs the same config on generated pictures without a download'
        )
    for dataset in leaves(cfg[loader].get('dataset') or {}):
        _check_classes(cfg, dataset)


def leaves(dataset: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The data sets inside wrappers such as RepeatDataset or ConcatDataset."""
    inner = as_list(dataset.get('dataset')) + as_list(dataset.get('datasets'))
    if not inner:
        yield dataset
    for part in inner:
        yield from leaves(part)


def _paths(dataset: Mapping[str, Any]) -> list[str]:
    root = dataset.get('data_root') or ''
    parts = [dataset.get('ann_file'), *(dataset.get('data_prefix') or {}).values()]
    return [os.path.join(root, part) for part in parts if isinstance(part, str) and part]


def _absent(path: str) -> bool:
    """Whether a local path does not exist; what is in a remote store cannot be told here."""
    return '://' not in path and not Path(path).exists()


def _check_classes(cfg: Config, dataset: Mapping[str, Any]) -> None:
    """Class names of config, annotations and heads must agree: mmdet shifts labels silently."""
    cls = dataset_class(cfg, dataset)
    metainfo = {**getattr(cls, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    classes = metainfo.get('classes')
    if not isinstance(classes, (list, tuple)) or 'thing_classes' in metainfo:
        return  # panoptic heads count things and stuff each in their own way
    path = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
    if cls.__name__ == 'CocoDataset' and path.is_file():
        names = coco_class_names(path)
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise UserError(
                f'{path} has no class {", ".join(unknown[:5])}'
                f'{" ..." if len(unknown) > 5 else ""}; its classes are {", ".join(names)}: set '
                'metainfo=dict(classes=(...)) in every dataset of the config'
            )
    for head, number in _num_classes(cfg.model, 'model'):
        if number != len(classes):
            raise UserError(
                f'{head}.num_classes={number}, but the data set has {len(classes)} classes: '
                f'{", ".join(classes[:5])}{" ..." if len(classes) > 5 else ""}'
            )


def dataset_class(cfg: Config, dataset: Mapping[str, Any]) -> Any:
    """The class that a data set's config names, from the scope of the config.

    Raises:
        UserError: there is none of that name.
    """
    name = dataset.get('type')
    if isinstance(name, type):
        return name
    with DATASETS.switch_scope_and_registry(dataset.get('_scope_', cfg.default_scope)) as registry:
        cls = registry.get(name)
    if cls is None:
        raise UserError(f'there is no data set of type {name!r} in {cfg.default_scope}')
    return cls


def _num_classes(node: Any, path: str) -> Iterator[tuple[str, int]]:
    """``num_classes`` of the heads that predict the classes of the data set."""
    heads = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head')
    if isinstance(node, dict):
        if path.split('.')[-1].split('[')[0] in heads and isinstance(node.get('num_classes'), int):
            yield path, node['num_classes']
        for key, value in node.items():
            yield from _num_classes(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _num_classes(value, f'{path}[{i}]')


def coco_class_names(path: Path) -> list[str]:
    """Class names of a COCO annotation file, found without parsing its other 400 MB.

    Raises:
        UserError: the file holds no COCO categories.
    """
    if path.stat().st_size:
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for match in re.finditer(rb'"categories"\s*:\s*(?=\[)', data):
                end = data.find(b']', match.end())
                while end >= 0:
                    try:
                        rows = json.loads(data[match.end() : end + 1])
                    except ValueError:  # a bracket inside a category: read on to the next one
                        end = data.find(b']', end + 1)
                        continue
                    if rows and all(isinstance(row, dict) and 'name' in row for row in rows):
                        return [str(row['name']) for row in rows]
                    break
    raise UserError(f'{path} is no COCO annotation file: it lists no categories')


def as_list(value: Any) -> list[Any]:
    """One of something, several or None, as configs have them."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
