"""Predictions of a test set by a checkpoint or an ONNX file, written to where a report is."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from vitbackbones.data.configs import datasets, format_of
from vitbackbones.data.loading import iter_built_datasets
from vitbackbones.engine.ranks import linked_ranks
from vitbackbones.errors import UserError
from vitbackbones.inference.dump import dump_hook
from vitbackbones.launch.checks import require
from vitbackbones.launch.classes import check_same, use_one_order

from .label_map_source import load_prediction

#: What is written of a detector, and of a segmentor, in the folder of the report.
RESULTS = {'coco': 'predictions.json', 'label maps': 'predictions'}


def kind_of(cfg: Config) -> str:
    """The format of a config's test set: 'coco' or 'label maps'.

    Raises:
        UserError: it has none, or one of another format.
    """
    require(cfg, 'test_dataloader')
    kinds = [(format_of(cfg, dataset), dataset.get('type')) for dataset in datasets(cfg, 'test')]
    for kind, name in kinds:
        if kind not in RESULTS:
            raise UserError(
                f"a report needs truths in COCO's format or label maps, the test set is a {name}"
            )
    if len({kind for kind, _ in kinds}) != 1:
        raise UserError('the test set joins annotations of COCO with label maps: report on one')
    kind = kinds[0][0]
    assert kind is not None
    return kind


def check_place(out: Path, predictions: Path | None) -> None:
    """A folder holds the predictions that are reported on, or none.

    Args:
        predictions: those; None if they are yet to be made.

    Raises:
        UserError: there are others, which would be taken for those of the report.
    """
    for name in RESULTS.values():
        there = out / name
        if not there.exists() or (predictions is not None and there.samefile(predictions)):
            continue
        raise UserError(
            f'--out-dir {out} has {name} already: --predictions {there} reports on it, for other '
            'predictions choose another folder, or remove it'
        )


def take_classes(cfg: Config, tester: Runner) -> None:
    """Give the test set of a config the classes of the test that is about to run."""
    built = iter_built_datasets(tester.test_loop.dataloader.dataset)
    for dataset, tested in zip(datasets(cfg, 'test'), built, strict=True):
        known = {k: tested.metainfo[k] for k in ('classes', 'palette') if k in tested.metainfo}
        own = dataset.get('metainfo') or {}
        cast(ConfigDict, dataset).metainfo = ConfigDict({**own, **known})


def take_order(cfg: Config, folder: Path) -> None:
    """Bring the classes of a test set into the order that label maps say they have.

    Raises:
        UserError: they have other classes, or the test set cannot be brought into that order.
    """
    for path in sorted(folder.rglob('*.png'))[:1]:  # the others are held against it
        _, names = load_prediction(path)
        if names is not None:
            check_same(cfg, 'test', names, str(path))
            use_one_order(cfg, ('test',), names, str(path))


def predict(tester: Runner, target: Path) -> Path:
    """Predict the test set into a file, or a folder of label maps, that must not exist.

    Raises:
        UserError: the data are not right.
    """
    with linked_ranks():
        tester.register_hook(dump_hook(tester, target))
        tester.test()
    return target
