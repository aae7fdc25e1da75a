"""From a user's folder of images and annotations to what mmdet and mmseg read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from . import coco, label_maps, voc, yolo
from .annotated import make_ready
from .class_list import read_class_list
from .own_data import Form, OwnData, Task
from .recognise import recognise
from .tree import list_tree
from .writing import staged


def read_folder(
    folder: Path,
    into: Path,
    *,
    form: Form | None = None,
    task: Task | None = None,
    classes: Path | None = None,
    seed: int = 0,
    force: bool = False,
) -> OwnData:
    """Recognise a folder's format, and write to ``into`` what cannot be read as it is.

    Nothing is written to ``folder``, and images are never copied. ``into`` is written as a whole or
    not at all, and not if nothing has to be; equal folders give equal files.

    Args:
        form: the format, where a folder has several.
        task: what is to be learnt, where annotations allow for several: boxes of masks, too.
        classes: a file that lists the classes.
        seed: of the choice of images for validation, where there are none.
        force: replace ``into``.

    Raises:
        UserError: the folder is of no format or of several, or is not right; nothing is written.
    """
    into = into.absolute()
    tree = list_tree(folder)
    form, found, said = recognise(tree, form, task)
    listed = read_class_list(classes) if classes else None
    with staged(into, force=force) as stage:
        if form == 'label-maps':
            data = label_maps.read(
                tree, found, listed, classes, folder=folder, stage=stage, into=into, seed=seed
            )
        else:
            names = [one.name for one in listed] if listed else None
            annotated = _READERS[form](tree, found, task, names)
            data = make_ready(tree, annotated, folder, stage, into, seed)
    return replace(data, said=(said, *data.said))


_READERS = {'coco': coco.read, 'yolo': yolo.read, 'voc': voc.read}
