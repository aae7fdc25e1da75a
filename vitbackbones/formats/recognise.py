"""Which format a folder is in, by its structure alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from vitbackbones.errors import UserError

from .coco import find_coco
from .own_data import WORDS, Form, Task
from .pairing import find_label_maps
from .tree import Tree
from .voc import find_voc
from .yolo import find_yolo


class _Format(NamedTuple):
    """A format.

    Attributes:
        title: in words.
        find: what of it a folder has; false if nothing.
        tasks: what it can teach.
        seen: what ``find`` found, in words.
        wanted: what there would have to be.
    """

    title: str
    find: Callable[[Tree], Any]
    tasks: tuple[Task, ...]
    seen: Callable[[Any], str]
    wanted: str


FORMATS: dict[Form, _Format] = {
    'coco': _Format(
        'COCO JSON',
        find_coco,
        ('boxes', 'masks'),
        lambda files: files[0],
        'a .json file with images, annotations and categories',
    ),
    'yolo': _Format(
        'YOLO',
        find_yolo,
        ('boxes', 'masks'),
        lambda found: found.example or str(found.description.path),
        'a data.yaml, or a .txt of numbers beside an image or in labels/ for images/',
    ),
    'voc': _Format(
        'Pascal VOC',
        find_voc,
        ('boxes',),
        lambda files: files[0],
        'an .xml with <annotation>',
    ),
    'label-maps': _Format(
        'label maps',
        find_label_maps,
        ('labels',),
        lambda found: found.pairs[0][1],
        'a .png for each image, in labels/, masks/, annotations/ or ann_dir/ or beside it',
    ),
}


def recognise(tree: Tree, form: Form | None, task: Task | None) -> tuple[Form, Any, str]:
    """The format, what its module found, and both in words.

    Args:
        form: what the user says that it is.
        task: what it must teach; formats that cannot are not looked for.

    Raises:
        UserError: it has none, or several, or not the one that it should.
    """
    looked = {
        name: each
        for name, each in FORMATS.items()
        if (form is None or name == form) and (task is None or task in each.tasks)
    }
    if not looked:
        assert form is not None
        assert task is not None
        raise UserError(
            f'--format {form} has {" or ".join(WORDS[each] for each in FORMATS[form].tasks)}, and '
            f'{WORDS[task]} are wanted'
        )
    found = {name: each.find(tree) for name, each in looked.items()}
    found = {name: what for name, what in found.items() if what}
    if len(found) > 1:
        each = ' and '.join(f'{FORMATS[n].title} ({FORMATS[n].seen(w)})' for n, w in found.items())
        raise UserError(f'{tree.root} holds {each}: choose one with --format {" or ".join(found)}')
    for name, what in found.items():
        return name, what, f'{tree.root} holds {FORMATS[name].title} ({FORMATS[name].seen(what)})'
    for name in () if form else FORMATS.keys() - looked.keys():
        other, what = FORMATS[name], FORMATS[name].find(tree)
        if what and task is not None:
            raise UserError(
                f'{tree.root} holds {other.title} ({other.seen(what)}), which '
                f'{"have" if name == "label-maps" else "has"} no {WORDS[task]}: choose another '
                '--head or --from'
            )
    wanted = '; '.join(f'{each.title}: {each.wanted}' for each in looked.values())
    raise UserError(
        f'{tree.root} is of no known format: it has {tree.content()}; looked for were {wanted}'
    )
