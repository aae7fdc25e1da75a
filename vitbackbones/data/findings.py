"""Kinds of bad data: what each is called, and what training does with it."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        error: training stops at it; otherwise it copes.
        training: what training does with it, in words.
        whole: it is of the dataset as a whole, and its details are a sentence.
    """

    error: bool
    training: str
    whole: bool = False


class Finding(NamedTuple):
    """One problem: its kind, the file it is in, and where or what in words."""

    kind: str
    file: str
    detail: str = ''

    @property
    def error(self) -> bool:
        return KINDS[self.kind].error

    @property
    def training(self) -> str:
        return KINDS[self.kind].training

    def __str__(self) -> str:
        return f'{self.file}: {self.detail or self.kind}'


STOPS = 'training does not start'
STOPS_THERE = 'training stops when it comes to it'
LEFT_OUT = 'training leaves it out'
NEVER_LEARNT = 'neither learnt nor tested'
COPY = '`vitbackbones train` and `test` read a copy in which it is right'
AS_LOADED = 'as LoadAnnotations gives them, before other steps of the pipeline that are your own'

KINDS = {
    # annotations, which are all read before training
    'unreadable annotation file': Kind(True, STOPS),
    'no images': Kind(True, STOPS),
    'no label maps': Kind(True, STOPS),
    'folders of classes': Kind(True, STOPS),
    'unknown label': Kind(True, STOPS),
    'no masks': Kind(True, STOPS),
    'missing field': Kind(True, STOPS),
    'duplicate id': Kind(True, STOPS),
    'unknown category': Kind(True, STOPS),
    'class without category': Kind(True, STOPS),
    'box not finite': Kind(True, STOPS),
    'bad mask': Kind(True, STOPS),
    'mask of another size': Kind(True, STOPS),
    'two categories of one name': Kind(True, STOPS),
    'ids of two types': Kind(True, STOPS),
    'another encoding': Kind(False, COPY),
    'categories in another order': Kind(False, COPY),
    'category without use': Kind(False, COPY),
    'category left out': Kind(False, COPY),
    'name that is no text': Kind(False, COPY),
    'ids of other types': Kind(False, COPY),
    'annotation ids as text': Kind(False, COPY),
    'annotation id 0': Kind(False, COPY),
    'optional field left out': Kind(False, COPY),
    'object without mask': Kind(False, 'training learns nothing from the region of its box'),
    'box for a mask': Kind(False, 'the evaluation of masks takes its box for its mask'),
    'class not chosen': Kind(False, LEFT_OUT),
    'unknown image': Kind(False, LEFT_OUT),
    'box outside': Kind(False, LEFT_OUT),
    'box without area': Kind(False, LEFT_OUT),
    'box across the edge': Kind(False, 'training cuts it at the edge'),
    'mask without area': Kind(False, LEFT_OUT),
    # the dataset as a whole, each of whose rows is right
    'nothing left': Kind(True, STOPS, True),
    'normalised boxes': Kind(True, STOPS, True),
    'boxes as corners': Kind(True, STOPS, True),
    'boxes like corners': Kind(False, 'training takes them for x, y, width and height', True),
    'one file for all images': Kind(True, STOPS, True),
    'one file for several images': Kind(
        False, 'to training the objects of one row are background in the other', True
    ),
    'softmax over one class': Kind(True, STOPS, True),
    'class without objects': Kind(False, NEVER_LEARNT, True),
    'class without pixels': Kind(False, NEVER_LEARNT, True),
    'class without images': Kind(False, NEVER_LEARNT, True),
    'image of two splits': Kind(False, 'tested on what was trained on'),
    'classes as loaded': Kind(False, AS_LOADED, True),
    'run-length masks': Kind(False, LEFT_OUT, True),
    # files, which are read when their turn comes
    'missing file': Kind(True, STOPS_THERE),
    'empty file': Kind(True, STOPS_THERE),
    'truncated file': Kind(True, STOPS_THERE),
    'unreadable image': Kind(True, STOPS_THERE),
    'another size': Kind(True, STOPS_THERE),
    'label map of another size': Kind(True, STOPS_THERE),
    'not a label map': Kind(True, STOPS_THERE),
    'label out of range': Kind(True, STOPS_THERE),
    'labels as loaded': Kind(False, AS_LOADED),
    'wrong extension': Kind(False, 'training reads it by its content'),
    'grey': Kind(False, 'training gets three equal channels'),
    'CMYK': Kind(False, 'training gets it converted to RGB, without a colour profile'),
    '16 bit': Kind(False, 'training gets the upper 8 bits'),
    'alpha': Kind(False, 'training gets the colours without transparency'),
    'EXIF rotation': Kind(False, 'training gets it turned upright'),
    'one pixel': Kind(False, 'trained on, unless filter_cfg.min_size leaves it out'),
    'very large': Kind(False, 'trained on, at the price of time and memory'),
}
