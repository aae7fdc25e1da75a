"""Saying which part of a model has no counterpart in an exported file."""

from __future__ import annotations

from typing import Any

from vitbackbones.errors import UserError


def refuse(path: str, value: Any, known: str) -> UserError:
    """One sentence about a part, by the name that the config has for it.

    Args:
        known: what there is a counterpart for, in words.
    """
    return UserError(f'{path} is {value}, which --part model cannot export, only {known}')


def require_methods(part: Any, path: str, base: type, *names: str) -> None:
    """A part must predict by a class's own methods: what others do instead is not known.

    Raises:
        UserError: it is of another class, or has a method of its own.
    """
    if not isinstance(part, base):
        raise refuse(path, type(part).__name__, f'{base.__name__} and what predicts as it does')
    for name in names:
        if getattr(type(part), name) is not getattr(base, name):
            raise refuse(
                path,
                f'{type(part).__name__}, with a {name} of its own',
                f'what predicts as {base.__name__} does',
            )
