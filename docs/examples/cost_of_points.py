"""What the operating points of SuperViT on DeiT-S cost at 512 x 512, without its pyramid.

python docs/examples/cost_of_points.py
"""

from __future__ import annotations

import statistics

import torch

import vitbackbones
from vitbackbones.benchmark.flops import count_flops
from vitbackbones.benchmark.machine import describe_machine, in_words
from vitbackbones.benchmark.points import point_name, read_points
from vitbackbones.benchmark.timing import in_turn, ratio
from vitbackbones.tables import markdown

POINTS = ('1,1', '1,0.7', '1,0.5', '12/14,1', '10/14,1', '8/14,1', '8/14,0.5')

torch.set_num_threads(1)
torch.manual_seed(0)
net = vitbackbones.create('supervit_deit_s', out_indices=(2,), taps=(11,)).eval()
image = torch.randn(1, 3, 512, 512)
points = read_points(POINTS)


def run(point):
    net.operating_point = point
    with torch.no_grad():
        net(image)


flops = {point: count_flops(lambda point=point: run(point)).total for point in points}
seconds = {point: [] for point in points}
for point, value in in_turn({p: lambda p=p: run(p) for p in points}, rounds=15):
    if value is not None:
        seconds[point].append(value)
print(
    markdown(
        ['scale, keep rate', 'GFLOPs', 'ratio', 'latency (ms)', 'ratio'],
        [
            [
                point_name(p),
                f'{flops[p] / 1e9:.1f}',
                f'{flops[p] / flops[points[0]]:.3f}',
                f'{1000 * statistics.median(seconds[p]):.0f}',
                f'{ratio(seconds[p], seconds[points[0]]):.3f}',
            ]
            for p in points
        ],
    )
)
print(in_words(describe_machine('cpu')))
