"""Say what a weight file is and which of our networks it loads into, without loading it.

vitbackbones inspect shvit_s4.pth
vitbackbones inspect hf-hub:timm/shvit_s4.in1k
vitbackbones inspect gcvit_tiny

The exit status is 1 if none of our networks is in it.
"""

from __future__ import annotations

import argparse

from vitbackbones.inspection import DIALECTS, Inspection, inspect
from vitbackbones.metafiles import weights_of

SHOWN = 10  # names of classes
IMAGENET = 1000  # classes
WHOLE = ('detector', 'segmentor', 'classifier')  # what a config of mmengine is of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'source',
        metavar='FILE_OR_NAME',
        help='a path, a URL, hf://owner/name/FILE, hf-hub:owner/name, or a variant, for its '
        'published weights',
    )
    parser.add_argument(
        '--allow-pickle', action='store_true', help='let it run code while it is read: trust it'
    )


def run(args: argparse.Namespace) -> int:
    """Print what there is to say, one line each; 1 if none of our networks is in the file.

    Raises:
        CheckpointError: it cannot be read, or holds no weights.
    """
    found = inspect(args.source, allow_pickle=args.allow_pickle)
    print(found.source)
    for title, text in _lines(found):
        print(f'  {title:10} {text if text.isprintable() else ascii(text)}')
    return 0 if found.family else 1


def _lines(found: Inspection) -> list[tuple[str, str]]:
    """Titles and what there is to say; names in the file are whoever wrote it's."""
    fit = found.fit
    lines = [('what', _what(found))]
    if found.classes is not None:
        more = ', ...' * (len(found.classes) > SHOWN)
        lines.append(('classes', f'{len(found.classes)}: {", ".join(found.classes[:SHOWN])}{more}'))
    elif found.num_classes is not None:
        lines.append(('classes', f'{found.num_classes}, without names'))
    words = {True: 'averaged (EMA)', False: 'plain', None: 'not said whether averaged (EMA)'}
    lines.append(('weights', f'{found.holder or "the file itself"}: {words[found.averaged]}'))
    lines += [('', f'{holder}: {words[each]}') for holder, each in found.others.items()]
    if found.trained:
        lines.append(('trained', found.trained))
    lines.append(('licence', _licence(found)))
    if fit is not None:
        options = ''.join(f', {key}={value}' for key, value in fit.options.items())
        lines += [
            ('loads into', f'vitbackbones.create({fit.name!r}{options}, pretrained=FILE)'),
            *_as_classifier(found),
            ('', f'{_config(found)}'),
            ('it logs', str(fit.report)),
        ]
    if found.family and found.kind in WHOLE and not (fit and fit.classifier):
        lines.append(('as a whole', 'vitbackbones test CONFIG FILE, with the config of it'))
    return lines


def _as_classifier(found: Inspection) -> list[tuple[str, str]]:
    fit, options = found.fit, f', num_classes={found.num_classes}'
    if fit is None or not fit.classifier:
        return []
    config = f'vitbackbones::classification/{fit.name.replace("_", "-")}_in1k.py'
    test = f'vitbackbones test {config} FILE, if its classes are those of ImageNet'
    if found.num_classes != IMAGENET:
        test = 'vitbackbones test CONFIG FILE, with the config of it'
    return [('', f'vitbackbones.create({fit.name!r}{options}, pretrained=FILE)'), ('', test)]


def _what(found: Inspection) -> str:
    fit = found.fit
    if fit is None:
        what = f'{found.family} of no variant' if found.family else 'none of our networks'
        return f'{found.kind} with {what}: {found.tensors} tensors ({found.names})'
    network = f'{fit.backbone.family} {fit.name.partition("_")[2]}'
    whole = {'classifier': f'{network} classifier', 'dense backbone': f'{network} dense backbone'}
    what = whole.get(found.kind, f'{found.kind} with {network}')
    return f'{what}, {found.tensors} tensors under {DIALECTS[fit.dialect]} names'


def _config(found: Inspection) -> str:
    assert found.fit is not None
    arch = found.fit.name.partition('_')[2]
    given = {'type': f'vitbackbones.{type(found.fit.backbone).__name__}', 'arch': arch}
    words = [f'{key}={value!r}' for key, value in {**given, **found.fit.options}.items()]
    return f"dict({', '.join(words)}, init_cfg=dict(type='Pretrained', checkpoint=FILE))"


def _licence(found: Inspection) -> str:
    if found.listed is not None:
        return f'{found.listed.licence}; in the model zoo as {found.listed.name}'
    if found.fit is None:
        return 'the file does not say'
    family, rows = found.fit.backbone.family, weights_of(found.fit.name)
    published = f'published weights of {family}: {rows[0].licence}' if rows else ''
    return f'the file does not say; {published or f"none of {family} were ever published"}'
