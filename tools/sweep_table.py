"""The page of what the sweeps found: docs/any-detector.md."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from vitbackbones.tables import markdown

Result = dict[str, Any]

#: How a status stands in a row, and what it means.
MARKS = {
    'works': ('yes', 'written, read back equal, built, trained a step, and predicted'),
    'warning': ('warns', 'likewise, but something is to be known'),
    'refused': ('refused', 'refused before anything is written, with the reason'),
    'framework': ('fails itself', 'the original config fails with the same words'),
    'failed': ('fails', 'ought to work, and does not'),
}

#: Rules that act in every config.
UNTOLD = {'old', 'new', 'weights', 'warning'}

INTRODUCTION = """\
# Any detector, any segmentor

<!-- Made by tools/sweep_configs.py --table: change that, not this page. -->

```bash
vitbackbones new --from mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py --backbone shvit_s4 -o my.py
vitbackbones train my.py
```

`--from` takes any config of mmdet or mmseg, or a file of yours that inherits one. `vitbackbones
new` builds its backbone and neck, puts one of ours in the place of the backbone so that the heads
get maps of the channels and strides that they had, and writes a short config that inherits the
original. Every rule that acted is printed and is a comment in the file. What cannot work is refused
with the reason, and nothing is written.

## How this was tried

One config of each folder of methods: the first by name whose model has a backbone. It was written
for random weights, read back and compared, built, trained for one step on two images of noise of
128 x 128 pixels (256, 384 or 512 where those are too small), and asked for a prediction. Where that
did not work, the original config went through the same. Versions: {versions}; commit {commits}.

```bash
{commands}
```

{counts}
{marks}
The files have {lines} lines that are neither blank nor comment (median; {most} at most).
"""


def page(results: Sequence[Result]) -> str:
    """The page, as Markdown.

    Args:
        results: those of one backbone after those of another; of the first one the rules are told.
    """
    backbones = list(dict.fromkeys(result['backbone'] for result in results))
    packages = list(dict.fromkeys(package_of(result) for result in results))
    lines = [result['lines'] for result in results if 'lines' in result]
    text = INTRODUCTION.format(
        versions=', '.join(
            f'{name} {version(name)}' for name in ('mmdet', 'mmsegmentation', 'torch')
        ),
        commits=', '.join(sorted({result['commit'] for result in results})),
        commands='\n'.join(command for name in backbones for command in commands(results, name)),
        counts=counts(results, packages, backbones),
        marks='\n'.join(f'- *{mark}*: {meaning}' for mark, meaning in MARKS.values()) + '\n',
        lines=f'{statistics.median(lines):g}' if lines else 'no',
        most=max(lines, default=0),
    )
    return text + ''.join(
        f'\n## {package}\n\n{methods(of_package(results, package), backbones)}'
        for package in packages
    )


def commands(results: Sequence[Result], backbone: str) -> Iterator[str]:
    """Those that gave the results of a backbone: of samples one for each package."""
    start = f'python tools/sweep_configs.py --backbone {backbone}'
    end = f'--out work_dirs/{backbone}.jsonl'
    whole = True
    for package in dict.fromkeys(map(package_of, results)):
        every = {result['config'] for result in of_package(results, package)}
        own = {r['config'] for r in of_package(results, package) if r['backbone'] == backbone}
        if own and own != every:
            whole = False
            yield f'{start} --package {package} --sample {len(own)} {end}'
    if whole:
        yield f'{start} {end}'


def package_of(result: Result) -> str:
    return result['config'].partition('::')[0]


def of_package(results: Sequence[Result], package: str) -> list[Result]:
    return [result for result in results if package_of(result) == package]


def counts(results: Sequence[Result], packages: Sequence[str], backbones: Sequence[str]) -> str:
    head = ['package', 'backbone', *(mark for mark, _ in MARKS.values()), 'all']
    rows = []
    for package in packages:
        for backbone in backbones:
            own = [
                result['status']
                for result in of_package(results, package)
                if result['backbone'] == backbone
            ]
            if own:
                numbers = [str(own.count(status)) for status in MARKS]
                rows.append([package, f'`{backbone}`', *numbers, str(len(own))])
    return markdown(head, rows)


def methods(results: Sequence[Result], backbones: Sequence[str]) -> str:
    head = ['method', *(f'`{name}`' for name in backbones), 'by which rules, or why not', 'config']
    rows = []
    for config in sorted({result['config'] for result in results}):
        own = {result['backbone']: result for result in results if result['config'] == config}
        folder, _, name = config.partition('::')[2].partition('/')
        marks = [MARKS[own[each]['status']][0] if each in own else '' for each in backbones]
        told = '; '.join(tell(own, backbones)).replace('|', r'\|')
        rows.append([folder, *marks, told, f'`{name}`'])
    return markdown(head, rows, figures=False)


def tell(own: dict[str, Result], backbones: Sequence[str]) -> Iterator[str]:
    """The rules that acted for the first backbone, and every reason once."""
    first = own.get(backbones[0], {})
    rules = dict.fromkeys(rule.partition(':')[0] for rule in first.get('rules', ()))
    if first and first['status'] != 'failed' and (told := [r for r in rules if r not in UNTOLD]):
        yield ', '.join(told)
    reasons = {name: sentence(result) for name, result in own.items() if result['reason']}
    for reason in dict.fromkeys(reasons.values()):
        whose = [f'`{name}`' for name in backbones if reasons.get(name) == reason]
        yield reason if len(whose) == len(own) else f'{", ".join(whose)}: {reason}'
    for result in own.values():
        if result['status'] == 'refused' and 'original' in result:
            yield f'the original fails too, {shortened(result["original"])}'
            break


def sentence(result: Result) -> str:
    """A reason without the name of the config, which stands in the row."""
    return shortened(result['reason'].removeprefix(f'config {result["config"]}').lstrip(': '))


def shortened(text: str) -> str:
    """The first line, for errors of others may have many."""
    return textwrap.shorten(text.partition('\n')[0], 220, placeholder=' ...')
