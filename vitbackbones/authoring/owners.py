"""Which part of a model's config has the backbone that another one takes the place of."""

from __future__ import annotations

from collections.abc import Mapping

from vitbackbones.data.nodes import type_name
from vitbackbones.errors import UserError

from .draft import Draft, dicts_in

#: Networks beside the detector that look at what is cut out of images, and keep their backbone.
ASIDE = ('reid',)

#: Detectors that are built twice, one to teach the other, on images without annotations.
TAUGHT = ('SemiBaseDetector', 'SoftTeacher')


def owner_of(draft: Draft) -> str:
    """The dotted place of the one part of the model that has a backbone.

    Raises:
        UserError: there is none, or several, or one that a teacher trains.
    """
    if draft.get('model') is None:
        keys = ', '.join([*draft.config][:5])
        raise UserError(f'{_name(draft)} describes no model; it begins with {keys or "nothing"}')
    _refuse_teachers(draft)
    places = [
        place
        for place, part in dicts_in(draft.config.model, 'model')
        if isinstance(part.get('backbone'), Mapping)
    ]
    if not places:
        raise UserError(
            f'{_name(draft)} has no backbone that another one could take the place of: '
            f'model.type={draft.config.model.get("type")!r} has {", ".join(draft.config.model)}'
        )
    chosen = [place for place in places if place.rpartition('.')[2] not in ASIDE]
    if len(chosen) != 1:
        raise UserError(
            f'{_name(draft)} has several networks with a backbone, {", ".join(places)}, such as '
            'teacher and student, which must fit each other: change it by hand'
        )
    aside = [place for place in places if place not in chosen]
    if aside:
        draft.said.append(f'owner: {chosen[0]}; {", ".join(aside)} keeps its backbone')
    return chosen[0]


def _refuse_teachers(draft: Draft) -> None:
    for place, part in dicts_in(draft.config.model, 'model'):
        kind = type_name(part)
        teacher = next((key for key in part if str(key).startswith('teacher_')), None)
        if kind in TAUGHT or teacher:
            whose = f'{place} is a {kind}' if kind in TAUGHT else f'{place} has a {teacher}'
            raise UserError(
                f'{_name(draft)}: {whose}: a teacher trains a student there, and their backbones '
                'must fit each other: change it by hand, or begin with the detector alone'
            )


def _name(draft: Draft) -> str:
    return f'config {draft.bases[0]}'
