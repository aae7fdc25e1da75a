"""SHViT-S4 against timm's MobileViTv2-1.0 in ONNX Runtime: 16 images of 256 x 256, one thread.

PYTHONPATH=. python docs/examples/mobilevit_onnxruntime.py [ROUNDS]

Both are exported in the same way, without classifiers. SHViT is fused before; what is left of
BatchNorms in MobileViTv2, ONNX Runtime folds by itself.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import onnxruntime
import torch

import vitbackbones
from tests import torchvision_stub
from vitbackbones.benchmark.machine import describe_machine, in_words
from vitbackbones.benchmark.timing import in_turn, quartiles, ratio
from vitbackbones.deploy import fuse
from vitbackbones.deploy.onnx import difference, write_onnx
from vitbackbones.tables import markdown

with torchvision_stub.installed():
    import timm

OURS, PEER = 'SHViT-S4', 'MobileViTv2-1.0'


def start(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


torch.set_num_threads(1)
torch.manual_seed(0)
rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
images = torch.randn(16, 3, 256, 256)
networks = {
    OURS: fuse(vitbackbones.create('shvit_s4').eval()),
    PEER: timm.create_model('mobilevitv2_100', num_classes=0).eval(),
}
candidates = {}
with tempfile.TemporaryDirectory() as folder:
    for name, network in networks.items():
        path = Path(folder, f'{name}.onnx')
        write_onnx(network, images, path)
        print(f'{name}: differs by {difference(network, path, images):.1e} from PyTorch')
        session = start(path)
        candidates[name] = lambda s=session: s.run(None, {'image': images.numpy()})

seconds = {name: [] for name in candidates}
for name, value in in_turn(candidates, rounds, warm_up=2):
    if value is not None:
        seconds[name].append(value)
rows = [
    [name, *(f'{1000 * x:.0f}' for x in quartiles(values)), f'{ratio(seconds[PEER], values):.2f}']
    for name, values in seconds.items()
]
print(
    markdown(
        ['network', 'first quartile (ms)', 'median', 'third', f'times as fast as {PEER}'], rows
    )
)
print(f'{in_words(describe_machine("cpu"))}, ONNX Runtime {onnxruntime.__version__}')
