"""What a label stands for: one order of the classes for config, heads, data and checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mmengine.config import Config, ConfigDict

from vitbackbones.checkpoint import trained_classes
from vitbackbones.data.categories import coco_class_names
from vitbackbones.data.configs import (
    class_names,
    dataset_class,
    datasets,
    format_of,
    place,
    problem_of_folders,
    read_annotations,
    step_of,
)
from vitbackbones.data.folders import class_folders
from vitbackbones.data.loading import in_file_order
from vitbackbones.data.nodes import type_name
from vitbackbones.data.values import as_one_writes_them, in_another_order, is_list_of_colours
from vitbackbones.errors import UserError, notice
from vitbackbones.registry import MODELS


def check_classes(cfg: Config, split: str, dataset: Mapping[str, Any]) -> None:
    """Class names of config, annotations and heads must agree in number, and be there.

    Raises:
        UserError: they do not.
    """
    cls = dataset_class(cfg, dataset)
    classes = class_names(cfg, dataset)
    if classes is None or _is_panoptic(cls, dataset):
        return
    _check_folders(cfg, split, dataset, classes)
    _check_label_maps(cfg, split, cls, dataset)
    path = Path(place(dataset))
    if in_file_order(cls) and path.is_file():
        names = coco_class_names(path)
        # Some may be left out; none is a matter only where there is something to be classified.
        if not {*classes} & {*names} and read_annotations(cfg, split, dataset).annotations:
            raise UserError(
                f'{path} has no class {_listed(classes)}; its classes are {", ".join(names)}: set '
                'metainfo=dict(classes=(...)) in every dataset of the config'
            )
    check_heads(cfg.model, classes, 'the dataset')


def _check_folders(
    cfg: Config, split: str, dataset: Mapping[str, Any], classes: Sequence[str]
) -> None:
    """Folders by class whose labels are not those of the training, or of the model.

    Raises:
        UserError: they are not.
    """
    if format_of(cfg, dataset) != 'folders':
        return
    problem = problem_of_folders(cfg, split, dataset)
    wrong = [number for _, number in _num_classes(cfg.model, 'model') if number != len(classes)]
    if problem is None and split != 'train' and wrong and class_folders(dataset) == classes:
        problem = (
            f'{place(dataset)} has {len(classes)} folders ({_listed(classes)}), and the model '
            f'{wrong[0]} classes: labels are the places of folders in alphabetical order, so every '
            'class needs one, if need be empty'
        )
    if problem is not None:
        raise UserError(problem)


def _check_label_maps(cfg: Config, split: str, cls: Any, dataset: Mapping[str, Any]) -> None:
    """Options that mmseg refuses later, with the first image and in words about something else.

    Raises:
        UserError: classes that the dataset's type does not have, or two values for one option.
    """
    if format_of(cfg, dataset) != 'label maps':
        return
    own = getattr(cls, 'METAINFO', {}).get('classes') or ()
    unknown = [name for name in class_names(cfg, dataset) or () if own and name not in own]
    if unknown:
        raise UserError(
            f'{split}_dataloader: {cls.__name__} has no class {_listed(unknown)}, only its own '
            f"{len(own)}; for classes of your own set type='BaseSegDataset' (_delete_=True takes "
            'the rest of an inherited dataset away)'
        )
    reduced = dataset.get('reduce_zero_label', _default(cls, 'reduce_zero_label'))
    loading = step_of(dataset, 'LoadAnnotations').get('reduce_zero_label')
    if None not in (reduced, loading) and bool(loading) != bool(reduced):
        raise UserError(
            f'{split}_dataloader: LoadAnnotations has reduce_zero_label={loading}, its '
            f'{cls.__name__} {reduced}: set both to True if 0 stands for no class in the label '
            'maps, else to False'
        )


def _default(cls: Any, option: str) -> Any:
    """What the constructor of a class takes without an option; None if it has none."""
    found = inspect.signature(cls).parameters.get(option)
    return None if found is None or found.default is found.empty else found.default


def check_heads(model: Any, classes: Sequence[str], owner: str) -> None:
    """The heads of a model's config must predict as many classes as there are names.

    Args:
        owner: in words, whose names they are.

    Raises:
        UserError: one predicts more or fewer.
    """
    wrong = [
        f'{head}.num_classes={number}'
        for head, number in _num_classes(model, 'model')
        if number != len(classes)
    ]
    if wrong:
        count = '1 class' if len(classes) == 1 else f'{len(classes)} classes'
        raise UserError(
            f'{", ".join(wrong)}, but {owner} has {count}: {_listed(classes)}; set '
            f'num_classes={len(classes)} there'
        )


def use_one_order(
    cfg: Config,
    splits: Sequence[str],
    trained: Sequence[str] | None = None,
    whose: str = 'the checkpoint',
) -> None:
    """Let labels mean the same in all datasets: bring the classes of each into one order by name.

    Args:
        cfg: changed in place.
        splits: those of 'train', 'val', 'test' that are about to be used.
        trained: the classes that the weights know, in their order; without it, those of the
            training data.
        whose: that is, in words.

    Raises:
        UserError: the classes cannot be brought into that order, or a label has another name there.
    """
    for split in splits:
        for dataset in datasets(cfg, split):
            cls = dataset_class(cfg, dataset)
            classes = class_names(cfg, dataset)
            if classes is None or _is_panoptic(cls, dataset):
                continue
            if problem_of_folders(cfg, split, dataset) is not None:
                continue  # said by whoever looks at the data
            if trained is None:
                trained, whose = classes, f'{place(dataset)}, which is trained'
            if list(classes) == list(trained):
                _keep_colours(cls, dataset)
            else:
                what = f'{split}_dataloader: {place(dataset)}'
                _follow(cfg, dataset, classes, trained, what, whose)


def check_same(cfg: Config, split: str, classes: Sequence[str], source: str) -> None:
    """The datasets of a split must have these classes; their order may be another.

    Args:
        source: the file that predicts them.

    Raises:
        UserError: one has others.
    """
    for dataset in datasets(cfg, split):
        theirs = class_names(cfg, dataset)
        if theirs is not None and {*theirs} != {*classes}:
            raise UserError(
                f'{source} predicts the classes {_in_order(classes)}, {split}_dataloader has '
                f'{_in_order(theirs)}: give the config that the file was made of'
            )


def check_start(cfg: Config, checkpoint: Mapping[str, Any], source: str) -> None:
    """The classes of a checkpoint to resume or to start from must not be in another order.

    Args:
        cfg: with ``resume`` if the training is to go on.

    Raises:
        UserError: the same classes have other numbers there.
    """
    theirs = trained_classes(checkpoint)
    if theirs is None:
        return
    for dataset in datasets(cfg, 'train'):
        cls, ours = dataset_class(cfg, dataset), class_names(cfg, dataset)
        if ours is None or _is_panoptic(cls, dataset) or list(ours) == list(theirs):
            continue
        if in_another_order(ours, theirs) or (cfg.get('resume') and _contradict(ours, theirs)):
            raise UserError(
                f'{source}: its classes are {_in_order(theirs)}, those of the training data '
                f'{_in_order(ours)}: the heads would go on with other classes; write '
                'metainfo.classes in the order of the checkpoint'
            )


def _follow(
    cfg: Config,
    dataset: Mapping[str, Any],
    classes: Sequence[str],
    trained: Sequence[str],
    what: str,
    whose: str,
) -> None:
    """Bring a dataset's classes into the order that was trained."""
    if len(classes) != len(trained):
        return  # heads that number classes have been checked; others predict none, as RPN
    if set(classes) != set(trained):
        if not _contradict(classes, trained):
            notice(
                f'{what} has the classes {_in_order(classes)}, {whose}, {_in_order(trained)}: '
                'taken for other names of the same'
            )
            return
        problem = 'they are not the same'
        if in_another_order(classes, trained):
            problem = 'they are the same in another order, but not written alike'
    elif not _is_by_name(cfg, dataset, trained):
        problem = f'{dataset.get("type")} cannot be told to take them by name'
    else:
        meta = ConfigDict(dataset.get('metainfo') or {})
        palette = _palette(dataset_class(cfg, dataset), dataset)
        if is_list_of_colours(palette) and len(palette) == len(classes):
            colours = dict(zip(classes, palette, strict=True))
            meta.palette = [colours[name] for name in trained]
        meta.classes = list(trained) if isinstance(trained, list) else tuple(trained)
        cast(ConfigDict, dataset).metainfo = meta
        notice(f'{what}: its classes are taken in the order of {whose}, {_in_order(trained)}')
        return
    raise UserError(
        f'{what} has the classes {_in_order(classes)}, {whose}, {_in_order(trained)}, and '
        f'{problem}: write metainfo.classes in one order everywhere'
    )


def _is_by_name(cfg: Config, dataset: Mapping[str, Any], trained: Sequence[str]) -> bool:
    """Whether a dataset finds the labels of its files by the names of the classes."""
    cls = dataset_class(cfg, dataset)
    if format_of(cfg, dataset) == 'label maps':
        return set(trained) <= set(getattr(cls, 'METAINFO', {}).get('classes') or ())
    return in_file_order(cls) or 'XMLDataset' in {base.__name__ for base in cls.__mro__}


def _keep_colours(cls: Any, dataset: Mapping[str, Any]) -> None:
    """Let each class keep its colour where the config has another order than the dataset's own."""
    own = getattr(cls, 'METAINFO', {})
    names, colours = own.get('classes') or (), own.get('palette')
    meta = dataset.get('metainfo') or {}
    classes = meta.get('classes')
    if meta.get('palette') or not classes or not is_list_of_colours(colours):
        return
    if len(names) != len(colours):
        return
    if list(classes) != list(names) and set(classes) == set(names):
        by_name = dict(zip(names, colours, strict=True))
        meta['palette'] = [by_name[name] for name in classes]


def _palette(cls: Any, dataset: Mapping[str, Any]) -> Any:
    return {**getattr(cls, 'METAINFO', {}), **(dataset.get('metainfo') or {})}.get('palette')


def _is_panoptic(cls: Any, dataset: Mapping[str, Any]) -> bool:
    """Panoptic heads count things and stuff each in their own way."""
    meta = {**getattr(cls, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    return 'thing_classes' in meta


def _contradict(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether a name that both have stands for another label in each."""
    first, second = as_one_writes_them(one, other)
    places = {name: place for place, name in enumerate(first)}
    return any(places.get(name, place) != place for place, name in enumerate(second))


def _in_order(names: Sequence[str]) -> str:
    return f'({_listed(names)})'


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names[:5]) + (' ...' if len(names) > 5 else '')


def _is_dense(backbone: Mapping[str, Any]) -> bool:
    """Whether a backbone makes maps, as all do but those of ours that are a whole classifier."""
    return getattr(MODELS.module_dict.get(type_name(backbone)), 'dense', True)


def _num_classes(node: Any, path: str) -> Iterator[tuple[str, int]]:
    """``num_classes`` of the heads that predict the classes of the dataset."""
    heads = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head', 'head')
    if isinstance(node, dict):
        counts = path.split('.')[-1].split('[')[0] in heads
        if path == 'model.backbone' and not _is_dense(node):
            counts = True  # the head is its own
        if counts and isinstance(node.get('num_classes'), int):
            yield path, node['num_classes']
        for key, value in node.items():
            yield from _num_classes(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _num_classes(value, f'{path}[{i}]')
