"""The page docs/model_zoo.md: published figures, weights and licences, from the metafiles.

The metafiles are those that model-index.yml imports, which OpenMIM reads too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import torch

import vitbackbones
from vitbackbones.metafiles import Entry, classifier_of, start_of, task_of
from vitbackbones.tables import markdown

HEAD = """\
# Model zoo

<!-- `python tools/model_zoo.py > docs/model_zoo.md` makes this page of configs/metafiles. -->

Every config that is shipped, the figure that its authors published for it, and where their weights
are. The figures under AP, mIoU and top-1 are **published** ones, each a link to its source. The
column *here* is for figures measured with this code at full scale, and **none has been yet**. A
dash stands for what was not published or not measured.

`vitbackbones train CONFIG` starts any of them; [training.md](training.md) has what goes beyond.
Weights are read by their address: as `checkpoint` of a backbone's `init_cfg`, or by
`vitbackbones test CONFIG URL` where they are of a whole model. A link that is called a page is for
browsers: download the file and give its path.
[weights.md](weights.md) has all ways to name a file.
"""

DETECTION = """\
## COCO

Box and mask AP on val2017, 1333 x 800, one scale. *Backbone* is the variant and the parameters that
it has in a detector: no classifier, but an output norm for each stage where the network has any.
"""

SEGMENTATION = """\
## ADE20K

mIoU on the validation set, crops of 512 x 512 in training, one scale in the test.
"""

CLASSIFICATION = """\
## ImageNet-1K

Classifiers as mmpretrain trains and tests them: parameters, multiply-adds for one image of the size
given as far as they were published, top-1 on the validation set, one crop. Each config says which
weights that figure is of.
"""

BACKBONES = """\
## Weights from ImageNet

The published classifiers that detectors and segmentors start from: their parameters, multiply-adds
for one image of the size given, and accuracy on ImageNet-1K, as their authors published them. A
figure is of the weights in its own row.

Under *pretrained=True* it says of which row `vitbackbones.create(VARIANT, pretrained=True)` and
`checkpoint='published'` take the weights; where a classifier, which is built with `num_classes`,
takes others than a dense network, each says so. What only a page has must have been saved before,
in the place that the message names.
"""

LICENCES = """\
## Licences

The code here was written from the papers and is Apache-2.0 throughout. The weights are those of
their authors; where there is no licence, nobody but them has a right to use or to pass on what they
published.
"""

# Of whole models, by the folder that their configs are in.
METRICS = {
    'detection': ('box AP', 'mask AP'),
    'segmentation': ('mIoU',),
    'classification': ('Top 1 Accuracy',),
}
WEIGHTS = ('weights', "weights' licence")
HOSTS = {
    'drive.google.com': 'Google Drive',
    'github.com': 'GitHub',
    'huggingface.co': 'Hugging Face',
}
NONE = '-'


def page(collections: Sequence[Entry], models: Sequence[Entry]) -> str:
    """The page as Markdown."""
    families = {entry['Name']: entry for entry in collections}
    named = {entry['Name']: entry for entry in models}
    notes: dict[str, int] = {}  # their numbers, in the order in which they are referred to

    def table(task: str, *head: str) -> str:
        rows = []
        for model in models:
            if task_of(model) != task:
                continue
            source = model  # of the weights
            if task == 'classification':
                source = named.get(model['Metadata']['Backbone'], model)
                cells = _image_classifier(model, source, notes)
            else:
                cells = (_whole_model if task in METRICS else _classifier)(model, notes)
            rows.append(cells + _weights(source, families[model['In Collection']]))
        return markdown([*head, *WEIGHTS], rows, figures=False)

    parts = [
        HEAD,
        DETECTION,
        table('detection', 'config', 'backbone', *METRICS['detection'], 'here'),
        SEGMENTATION,
        table('segmentation', 'config', 'backbone', *METRICS['segmentation'], 'here'),
        CLASSIFICATION,
        table(
            'classification',
            *('config', 'backbone', 'multiply-adds', 'input', 'top-1', 'here'),
        ),
        BACKBONES,
        table('_base_', 'name', 'parameters', 'multiply-adds', 'input', 'top-1', 'pretrained=True'),
        LICENCES,
        markdown(
            ['network', 'published code', 'its licence', WEIGHTS[1]],
            map(_family, collections),
            figures=False,
        ),
    ]
    if notes:
        parts.append(''.join(f'[^{number}]: {text}\n' for text, number in notes.items()))
    return '\n'.join(parts)


def _whole_model(model: Entry, notes: dict[str, int]) -> list[str]:
    name = model['Metadata']['Backbone']
    with torch.device('meta'):
        net = vitbackbones.create(name.replace('-', '_', 1))
    return [
        f'[{model["Name"]}](../{model["Config"]}){_note(model, notes)}',
        f'{name}, {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M',
        *_figures(model),
    ]


def _image_classifier(model: Entry, weights: Entry, notes: dict[str, int]) -> list[str]:
    name, flops = model['Metadata']['Backbone'], weights['Metadata'].get('FLOPs')
    with torch.device('meta'):
        net = vitbackbones.create(name.replace('-', '_', 1), num_classes=1000)
    return [
        f'[{model["Name"]}](../{model["Config"]}){_note(model, notes)}',
        f'{name}, {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M',
        f'{flops / 1e9:.4g} G' if flops else NONE,
        str(model['Metadata']['Input Size']),
        *_figures(model),
    ]


def _figures(model: Entry) -> list[str]:
    """Those published and those measured here."""
    metrics = METRICS[task_of(model)]
    here = [str(_value(model, 'Measured', metric)) for metric in metrics if 'Measured' in model]
    return [*(_published(model, metric) for metric in metrics), ' / '.join(here) or NONE]


def _classifier(model: Entry, notes: dict[str, int]) -> list[str]:
    known = model['Metadata']
    return [
        f'{model["Name"]}{_note(model, notes)}',
        f'{known["Parameters"] / 1e6:.4g} M' if 'Parameters' in known else NONE,
        f'{known["FLOPs"] / 1e9:.4g} G' if 'FLOPs' in known else NONE,
        str(known['Input Size']),
        _published(model, 'Top 1 Accuracy'),
        _taken(model),
    ]


def _taken(model: Entry) -> str:
    """Whether these are the weights that a variant takes by the word."""
    variant = Path(model['Config']).stem.replace('-', '_', 1)
    dense, classifier = (
        each is not None and each.name == model['Name']
        for each in (start_of(variant), classifier_of(variant))
    )
    if dense and classifier:
        return 'yes'
    return 'without `num_classes`' if dense else 'with `num_classes`' if classifier else NONE


def _published(model: Entry, metric: str) -> str:
    """A published figure, with a link to its source."""
    value = _value(model, 'Results', metric)
    return NONE if value is None else f'[{value}]({model["Source"]})'


def _value(model: Entry, key: str, metric: str) -> float | None:
    """A figure under ``Results``, which are published, or ``Measured``, which are our own."""
    for result in model.get(key, ()):
        if metric in result['Metrics']:
            return result['Metrics'][metric]
    return None


def _weights(model: Entry, family: Entry) -> list[str]:
    links = [
        f'[{HOSTS[urlsplit(model[key]).netloc]}{suffix}]({model[key]})'
        for key, suffix in (('Weights', ''), ('Weights Page', ' page'))
        if key in model
    ]
    return [', '.join(links) or NONE, family['Metadata']['Weights License'] if links else NONE]


def _note(model: Entry, notes: dict[str, int]) -> str:
    if 'Note' not in model:
        return ''
    return f'[^{notes.setdefault(model["Note"], len(notes) + 1)}]'


def _family(entry: Entry) -> list[str]:
    known, url = entry['Metadata'], entry['Code']['URL']
    return [
        f'[{entry["Name"]}]({entry["Paper"]["URL"]})',
        f'[{urlsplit(url).path[1:]}]({url})',
        known['Code License'],
        known['Weights License'],
    ]
