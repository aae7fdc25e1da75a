"""Models that predict, and what they are given."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from vitbackbones import pretrained
from vitbackbones.checkpoint import trained_classes
from vitbackbones.data.before_training import check_annotations
from vitbackbones.data.configs import iter_datasets
from vitbackbones.data.nodes import base_names, type_name
from vitbackbones.deploy.onnx_file import is_onnx
from vitbackbones.engine.networks import unwrapped
from vitbackbones.errors import UserError
from vitbackbones.launch.built import as_built, build_runner
from vitbackbones.launch.checks import check_config, require
from vitbackbones.launch.classes import check_same, use_one_order
from vitbackbones.launch.trained import read_whole

from .onnx_model import read_onnx_model
from .precision import check_precision, compute_in
from .tta import check_views, use_views

# What a test has no use for.
TRAINING = (
    *('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'),
    *('val_dataloader', 'val_cfg', 'val_evaluator', 'load_from', 'resume'),
)


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition(chr(10))[0]
        raise UserError(f'--device {name!r} cannot be used: {reason}') from error
    return device


def predict_one(model: Any, packed: Mapping[str, Any]) -> Any:
    """The data sample, on the CPU, of what the test pipeline makes of one image."""
    batch = {key: [value] for key, value in packed.items()}
    with torch.no_grad():
        (sample,) = model.test_step(batch)
    return sample.cpu()


def test_pipeline(cfg: Config) -> Compose:
    """The config's test pipeline without what loads annotations, wherever it stands.

    Raises:
        UserError: there is none.
    """
    dataset = next(iter_datasets(cfg.test_dataloader.dataset))
    if not dataset.get('pipeline'):
        raise UserError(f'the test set, a {dataset.get("type")}, has no pipeline to load images by')
    return Compose(_without_annotations(dataset['pipeline']))


def _without_annotations(node: Any) -> Any:
    """Steps, also those inside other steps, that need nothing but an image."""
    if isinstance(node, (list, tuple)):
        return [_without_annotations(part) for part in node if not _loads_annotations(part)]
    if isinstance(node, dict):
        return {
            key: _without_annotations(value) if _has_steps(value) else value
            for key, value in node.items()
        }
    return node


def _loads_annotations(step: Any) -> bool:
    name = type_name(step) if isinstance(step, dict) else type(step).__name__
    return name.startswith('Load') and name.endswith('Annotations')


def _has_steps(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_has_steps, value))
    return isinstance(value, dict) and 'type' in value


def _leave_out_averaging(cfg: Config) -> None:
    """Take hooks that average weights out of a config of a test, which has those it has loaded.

    They would swap these for a copy, and mmpretrain's would then test a second time.
    """

    def averages(hook: Any) -> bool:
        known = isinstance(hook, dict)
        return known and 'EMAHook' in base_names(hook, HOOKS, cfg.get('default_scope'))

    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or () if not averages(hook)]
    named = cfg.get('default_hooks') or {}
    cfg.default_hooks = {name: hook for name, hook in named.items() if not averages(hook)}


def build_tester(written: Config, source: str, *, tta: bool = False, dtype: str = 'fp32') -> Runner:
    """A Runner with nothing but a test loop, whose model has the weights of a checkpoint.

    Args:
        written: the config; what belongs to training is not built, and its data need not be there.
        source: see :func:`~vitbackbones.launch.trained.read_whole`, or an ONNX file of a whole
            model, which then stands in place of the config's.
        tta: test several views of each image, see :func:`~vitbackbones.inference.tta.use_views`.
        dtype: what layers compute in, see :func:`~vitbackbones.inference.precision.compute_in`.

    Raises:
        UserError: the config, the data or the file are not right, or there are no such views of
            them.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    if tta and is_onnx(source):
        raise UserError(
            f'--tta: {source} is an ONNX file, of which one view is tested; name a checkpoint'
        )
    check_precision(dtype, source)
    exported = read_onnx_model(source) if is_onnx(source) else None
    checkpoint: Mapping[str, Any] = {}
    if exported is None:
        checkpoint, source = read_whole(written, source)
    cfg = copy.deepcopy(written)
    for key in TRAINING:
        cfg.pop(key, None)
    require(cfg, 'test_dataloader', 'test_cfg', 'test_evaluator')
    check_config(cfg, ('test',))
    if tta:
        check_views(cfg)
    trained = trained_classes(checkpoint)
    if exported is not None:
        trained = tuple(exported.card.classes)
        check_same(cfg, 'test', trained, source)
    use_one_order(cfg, ('test',), trained)
    check_annotations(cfg, ('test',), label_maps=0)
    built = as_built(cfg, ('test',))
    _leave_out_averaging(built)
    if exported is not None:
        built.model = exported
    if tta:
        use_views(built)
    runner = build_runner(built, written, training=False)
    if exported is None:
        model = unwrapped(runner.model)
        pretrained.load_model(model.module if tta else model, checkpoint, source)
        compute_in(model, dtype)
    return runner
