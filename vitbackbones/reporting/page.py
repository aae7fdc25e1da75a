"""One page of HTML that asks no host for anything: styles and pictures are in it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 0 16px 48px; color: #1c2430; background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 28px 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 40px 0 6px; border-top: 1px solid #dde2e8; padding-top: 18px; }
p { margin: 6px 0 12px; max-width: 75ch; overflow-wrap: anywhere; }
.note { background: #fff4d6; border-left: 4px solid #e0a000; padding: 8px 12px; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 2px 14px;
  margin: 10px 0; }
dt { color: #5b6673; }
dd { margin: 0; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 8px; }
.tile { background: #f3f6f9; border-radius: 6px; padding: 8px 10px; }
.tile b { display: block; font-size: 1.3rem; line-height: 1.3; }
.tile span { color: #5b6673; font-size: .82rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr));
  gap: 16px; align-items: start; }
figure { margin: 12px 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; }
.panels { display: grid; gap: 6px; max-width: 980px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
figcaption { font-size: .88rem; color: #3c4652; overflow-wrap: anywhere; }
figcaption b { color: #1c2430; }
.scroll { overflow-x: auto; max-height: 34rem; margin: 10px 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid #e7ebef;
  white-space: nowrap; }
th { position: sticky; top: 0; background: #f3f6f9; font-weight: 600; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
th:first-child { background: #f3f6f9; z-index: 1; }
.chip { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: 4px; }
.key span { margin-right: 12px; white-space: nowrap; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page out of parts that are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
        f'<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n'
        + '\n'.join(parts)
        + '\n</body>\n</html>\n'
    )


def heading(text: str) -> str:
    """The title of a section."""
    return f'<h2>{escape(text)}</h2>'


def paragraph(text: str, *, note: bool = False) -> str:
    """Some sentences; a ``note`` stands out."""
    return f'<p{" class=note" if note else ""}>{escape(text)}</p>'


def facts(pairs: Mapping[str, str]) -> str:
    """What is said of the whole report, name by name."""
    rows = (f'<dt>{escape(key)}</dt><dd>{escape(value)}</dd>' for key, value in pairs.items())
    return f'<dl>{"".join(rows)}</dl>'


def tiles(pairs: Mapping[str, float | None]) -> str:
    """The figures that are looked at first."""
    cells = (
        f'<div class="tile"><b>{number(value)}</b><span>{escape(name)}</span></div>'
        for name, value in pairs.items()
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table that is scrolled by itself where it is too wide; see :func:`number`."""
    top = ''.join(f'<th>{escape(cell)}</th>' for cell in head)
    body = ''.join(f'<tr>{"".join(f"<td>{_cell(cell)}</td>" for cell in row)}</tr>' for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead>'
        f'<tbody>{body}</tbody></table></div>'
    )


def _cell(value: Any) -> str:
    return escape(value) if isinstance(value, str) else number(value)


def number(value: float | int | None) -> str:
    """Integers as they are, others with three digits, a dash for what is not known."""
    if value is None or value != value:
        return '-'
    return f'{value:,}' if isinstance(value, int) else f'{value:.3f}'


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    return '-' if value is None or value != value else f'{value:+.3f}'


def picture(contents: Sequence[bytes], kind: str, words: str, *, name: str = '') -> str:
    """Pictures side by side, as far as there is room, with what they show below them.

    Args:
        kind: 'png' or 'jpeg'.
    """
    alt = escape(f'{name} {words}'.strip())
    images = (
        f'<img alt="{alt}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
        for content in contents
    )
    title = f'<b>{escape(name)}</b> ' if name else ''
    return (
        f'<figure><div class="panels">{"".join(images)}</div>'
        f'<figcaption>{title}{escape(words)}</figcaption></figure>'
    )


def plots(figures: Iterable[str]) -> str:
    """Pictures side by side, as far as there is room."""
    return f'<div class="plots">{"".join(figures)}</div>'


def key(colours: Mapping[str, str]) -> str:
    """What colours stand for."""
    chips = (
        f'<span><i class="chip" style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in colours.items()
    )
    return f'<p class="key">{"".join(chips)}</p>'
