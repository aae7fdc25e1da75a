"""What training keeps for the backward pass at 512 x 512: all, without fused attention, with_cp.

PYTHONPATH=. python docs/examples/training_memory.py
"""

from __future__ import annotations

from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import vitbackbones
from vitbackbones.backbones import gcvit
from vitbackbones.benchmark.machine import describe_machine, in_words
from vitbackbones.benchmark.memory import saved_memory
from vitbackbones.tables import markdown

MIB = 2**20
NETWORKS = {
    'sepvit_tiny': {},
    'gcvit_tiny': {},
    'casvit_t': {},
    'supervit_deit_s': dict(out_indices=(2,), taps=(11,)),
    'shvit_s4': {},
}


def plain_attention(q, k, v, table, build, *_):
    return (q @ k.mT * q.shape[3] ** -0.5 + build(table)).softmax(-1) @ v


images = torch.randn(1, 3, 512, 512)
rows = []
for name, options in NETWORKS.items():
    net = vitbackbones.create(name, **options).train()
    fused = saved_memory(net, images)
    with (
        sdpa_kernel(SDPBackend.MATH),
        mock.patch.object(gcvit, 'attention_with_bias', plain_attention),
    ):
        unfused = saved_memory(net, images)
    checkpointed = saved_memory(vitbackbones.create(name, with_cp=True, **options).train(), images)
    mebibytes = [f'{value / MIB:.0f}' for value in (unfused, fused, checkpointed)]
    ratios = [f'{fused / unfused:.2f}', f'{checkpointed / fused:.2f}']
    rows.append([name, *mebibytes, *ratios])
    print(rows[-1], flush=True)
head = [
    'backbone',
    'unfused (MiB)',
    'fused',
    'fused, `with_cp`',
    'fused / unfused',
    '`with_cp` / without',
]
print(markdown(head, rows))
print(in_words(describe_machine('cpu')))
