"""Predictions of a test set by a checkpoint or an ONNX file, written to where a report is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from vitbackbones.checkpoint import read_checkpoint, trained_classes
from vitbackbones.data.configs import datasets, format_of
from vitbackbones.data.values import listed
from vitbackbones.deploy.onnx_file import OnnxFile, is_onnx
from vitbackbones.engine.ranks import linked_ranks
from vitbackbones.errors import UserError
from vitbackbones.inference.dump import dump_hook
from vitbackbones.inference.predict import build_tester
from vitbackbones.launch.checks import require

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


def check_order(classes: Sequence[str], source: str) -> None:
    """Label maps are measured by label: a checkpoint must have the classes of the config in order.

    Raises:
        UserError: it has them in another one.
        CheckpointError: the checkpoint cannot be read.
    """
    if is_onnx(source):
        trained: Sequence[str] | None = OnnxFile(source).card.classes
    else:
        trained = trained_classes(read_checkpoint(source, mmap=True))  # no weight is looked at
    if trained is not None and list(trained) != list(classes):
        raise UserError(
            f'{source} knows the classes in the order {listed(trained)}, the test set has '
            f'{listed(classes)}: write metainfo.classes in the order of the checkpoint'
        )


def predict(cfg: Config, source: str, out: Path) -> Path:
    """Predict the test set; the file, or folder of label maps, that was written below ``out``.

    Args:
        cfg: with a ``work_dir``.
        source: path or URL of a checkpoint, or an ONNX file.

    Raises:
        UserError: the config or data are not right, or predictions are there already.
        CheckpointError: the checkpoint cannot be read or belongs to another model.
    """
    target = out / RESULTS[kind_of(cfg)]
    if target.exists():
        raise UserError(
            f'--out-dir {out} has {target.name} already: --predictions {target} reports on it, '
            'without it another folder is needed'
        )
    with linked_ranks():
        runner = build_tester(cfg, source)
        runner.register_hook(dump_hook(runner, target))
        runner.test()
    return target
