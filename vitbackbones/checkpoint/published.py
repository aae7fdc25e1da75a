"""Where the published weights of each network are."""

from __future__ import annotations

from collections.abc import Mapping

_DRIVE = 'https://drive.google.com/file/d/'
_GCVIT = 'https://huggingface.co/nvidia/GCViT/resolve/main/gcvit_'
_SHVIT = 'https://github.com/ysj9909/SHViT/releases/download/v1.0/shvit_'

#: {class: {variant: ImageNet classifier}}, as the authors' own pages name them. What is on a drive
#: has to be fetched with a browser; the others can stand in ``init_cfg`` as they are. No digest of
#: any of them was published.
PUBLISHED: Mapping[str, Mapping[str, str]] = {
    'SepViT': {},
    'CASViT': {  # the first of the two files that there are of each variant
        'xs': f'{_DRIVE}16wKcwF6QMW5w_lyPYnDKjMNuoxQDfrLK',
        's': f'{_DRIVE}1facFRq8s8oelYUtK1fj3fcfdoWoKDBQQ',
        'm': f'{_DRIVE}13sQpSEf0h_uuh0jRy9V0yIW6ZsbDpVGy',
        't': f'{_DRIVE}1NqoIUPbwBC91RTjTUvubAbOfGqo1VYT0',
    },
    'SuperViT': {
        'deit_s': f'{_DRIVE}1y2-zU5UvHqGCmWEB41VLbnf7B27BatBL',
        'lvvit_s': f'{_DRIVE}1xjKrelbFQchaaulMm0bLUftD0h10hRJa',
    },
    'GCViT': {
        'xxtiny': f'{_GCVIT}1k_xxtiny.pth.tar',
        'xtiny': f'{_GCVIT}1k_xtiny.pth.tar',
        'tiny': f'{_GCVIT}1k_tiny.pth.tar',
        'tiny2': f'{_GCVIT}1k_tiny2.pth.tar',
        'small': f'{_GCVIT}1k_small.pth.tar',
        'small2': f'{_GCVIT}1k_small2.pth.tar',
        'base': f'{_GCVIT}1k_base.pth.tar',
        'large': f'{_GCVIT}21k_large_384.pth.tar',  # what its detector was trained from
    },
    'SHViT': {
        's1': f'{_SHVIT}s1.pth',
        's2': f'{_SHVIT}s2.pth',
        's3': f'{_SHVIT}s3.pth',
        's4': f'{_SHVIT}s4.pth',
    },
}
