"""Methods that are their backbone: refused with the reason, or written with a warning."""

from __future__ import annotations

from mmengine.config import Config

from vitbackbones.data.nodes import type_name
from vitbackbones.errors import UserError
from vitbackbones.tasks import Task

from .draft import Draft, dicts_in

#: {type of a part of the model: why nothing is left of the method without it}
REFUSED = {
    'RFP': 'its recursive feature pyramid feeds the pyramid back into a second pass of a backbone '
    'made for that (DetectoRS_ResNet)',
    'DetectoRS_ResNet': 'its switchable atrous convolutions are the layers of its backbone',
    'DetectoRS_ResNeXt': 'its switchable atrous convolutions are the layers of its backbone',
    'TridentResNet': 'its three branches with dilations of their own are the last stage of its '
    'backbone, and its heads read them one by one',
    'HourglassNet': 'its heads are trained on each of the stacked hourglasses of its backbone, '
    'which give several maps of one stride',
    'DDRNet': 'its two branches, and the map for the auxiliary loss, are its backbone',
    'PIDNet': 'its three branches, one of them for boundaries, are its backbone',
    'MLANeck': 'it adds up maps of one size from several depths of a plain ViT',
    'DPTHead': 'it reassembles maps from the tokens and the class token of a plain ViT',
    'SideAdapterCLIPHead': 'its masks and classes are read from CLIP, its image encoder',
    'VPD': "it reads the attention of Stable Diffusion, its backbone, to the classes' names",
}

#: {type of a part: what is left of the method when its backbone is another one}
WARNED = {
    'HRNet': 'maps of high resolution all the way through were HRNet; what is left are its heads',
    'BiSeNetV1': 'spatial and context path were the backbone; what is left are its heads on a '
    'feature pyramid',
    'BiSeNetV2': 'detail and semantic branch were the backbone; what is left are its heads on a '
    'feature pyramid',
    'FastSCNN': 'learning to downsample and fusing were FastSCNN; what is left are its heads on a '
    'feature pyramid',
    'STDCContextPathNet': 'the context path was the backbone; what is left are its heads on a '
    'feature pyramid',
    'ICNet': 'its cascade of image sizes was the backbone; what is left are its neck and heads',
    'CGNet': 'context guided blocks were CGNet; what is left is its head on a feature pyramid',
    'ERFNet': 'encoder and decoder were ERFNet; what is left is its head on a feature pyramid',
    'UNet': 'encoder and decoder were U-Net; what is left are its heads on a feature pyramid',
    'SETRUPHead': 'SETR decodes the tokens of a plain ViT; here it gets maps',
    'SegmenterMaskTransformerHead': 'Segmenter decodes the tokens of a plain ViT; here it gets the '
    'positions of a map',
}


def refuse_classifiers(cfg: Config, name: str) -> None:
    """Refuse mmpretrain's configs, in which nothing has to be fitted.

    Raises:
        UserError: ``name`` is one.
    """
    if cfg.get('default_scope') == Task.CLASSIFICATION.scope:
        raise UserError(
            f'config {name} is of a classifier, and `new` writes detectors and segmentors: inherit '
            'vitbackbones::classification/finetune_folders.py and name the backbone there'
        )


def check_method(draft: Draft) -> None:
    """Refuse, or warn of, a method that consists in its backbone.

    Raises:
        UserError: nothing would be left of it.
    """
    refuse_classifiers(draft.config, draft.bases[0])
    for place, part in dicts_in(draft.get('model'), 'model'):
        kind = type_name(part)
        if kind in REFUSED:
            raise UserError(
                f'config {draft.bases[0]}: {place} is a {kind}, and the method is nothing without '
                f'it: {REFUSED[kind]}'
            )
        if kind in WARNED:
            line = f'warning: {WARNED[kind]}'
            if line not in draft.said:
                draft.said.append(line)
