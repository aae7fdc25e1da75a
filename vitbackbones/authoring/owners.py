"""Which part of a model's config has the backbone that another one takes the place of."""

from __future__ import annotations

from collections.abc import Mapping

from vitbackbones.errors import UserError

from .draft import Draft, dicts_in

#: Networks beside the detector that look at what is cut out of images, and keep their backbone.
ASIDE = ('reid',)


def owner_of(draft: Draft) -> str:
    """The dotted place of the one part of the model that has a backbone.

    Raises:
        UserError: there is none, or several.
    """
    if draft.get('model') is None:
        keys = ', '.join([*draft.config][:5])
        raise UserError(f'{_name(draft)} describes no model; it begins with {keys or "nothing"}')
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


def _name(draft: Draft) -> str:
    return f'config {draft.bases[0]}'
