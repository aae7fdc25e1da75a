"""A model with the weights of a checkpoint, and what its labels are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS as ROOT_MODELS

from vitbackbones import pretrained
from vitbackbones.checkpoint import dataset_meta, read_checkpoint
from vitbackbones.data.configs import class_names, dataset_class, iter_datasets
from vitbackbones.errors import UserError, notice
from vitbackbones.published import PUBLISHED, source_of
from vitbackbones.targets import variant_of
from vitbackbones.tasks import Task, task_of

from .checks import build_backbone
from .classes import check_heads


def read_whole(cfg: Config, source: str) -> tuple[Mapping[str, Any], str]:
    """The content of a checkpoint of a config's whole model, and where it was read.

    Args:
        source: a path, an address, a name on the hub, or 'published': the published weights of the
            config's classifier.

    Raises:
        UserError: the config is of no classifier of ours, whose weights are published.
        CheckpointError: the checkpoint cannot be read, or was never published.
    """

    def variant() -> str:
        backbone = build_backbone(cfg)
        if task_of(cfg.model) is not Task.CLASSIFICATION or backbone is None:
            raise UserError(
                f'{PUBLISHED!r} stands for the published weights of a classifier: name the file '
                f'of a {cfg.model.type}'
            )
        return variant_of(backbone)

    source, sha256 = source_of(source, variant, classifier=True)
    return read_checkpoint(source, sha256=sha256), source


def build_trained(cfg: Config, source: str | None) -> tuple[Any, Mapping[str, Any]]:
    """The model of a config in evaluation, and the dataset's classes and palette.

    Args:
        source: see :func:`read_whole`; without, its weights are random.

    Raises:
        UserError: nobody names the classes, or heads have another number of them.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    checkpoint = None
    if source is not None:
        checkpoint, source = read_whole(cfg, source)
    model = revert_sync_batchnorm(ROOT_MODELS.build(cfg.model))
    if checkpoint is None:
        notice('no checkpoint: the weights are random')
    else:
        assert source is not None
        pretrained.load_model(model, checkpoint, source)
    meta = None if checkpoint is None else dataset_meta(checkpoint)
    if meta is None or not meta.get('classes'):
        meta = config_meta(cfg)
    if not meta or not meta.get('classes'):
        said = f'neither {source} nor the config says' if source else 'the config does not say'
        raise UserError(
            f'{said} which classes there are: set '
            'test_dataloader.dataset.metainfo=dict(classes=(...))'
        )
    check_heads(cfg.model, meta['classes'], source or 'the dataset')
    return model.eval(), meta


def config_meta(cfg: Config) -> dict[str, Any]:
    """Classes and palette of a config's test set; nothing if it has none."""
    whole = (cfg.get('test_dataloader') or {}).get('dataset')
    if not whole:
        return {}
    dataset = next(iter_datasets(whole))
    own = {**dataset_class(cfg, dataset).METAINFO, **(dataset.get('metainfo') or {})}
    return {**own, 'classes': class_names(cfg, dataset)}
