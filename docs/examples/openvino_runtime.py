"""An exported network in OpenVINO against ONNX Runtime: what they compute, and in what time.

python docs/examples/openvino_runtime.py NET.onnx [BATCHxHEIGHTxWIDTH ...]

One thread, single precision, nine rounds in turn. Needs openvino and onnxruntime, nothing of ours.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import onnxruntime
import openvino

path, *words = sys.argv[1:]
shapes = [tuple(map(int, word.split('x'))) for word in words or ('1x512x512', '2x333x411')]

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
# Where a CPU has units for bfloat16, OpenVINO would use them unasked.
settings = {'INFERENCE_NUM_THREADS': 1, 'INFERENCE_PRECISION_HINT': 'f32'}
compiled = openvino.compile_model(path, 'CPU', settings)
candidates = {
    'ONNX Runtime': lambda image: session.run(None, {'image': image}),
    'OpenVINO': lambda image: list(compiled(image).values()),
}

print(f'openvino {openvino.__version__}, onnxruntime {onnxruntime.__version__}')
random = np.random.default_rng(0)
for batch, height, width in shapes:
    image = random.standard_normal((batch, 3, height, width), dtype=np.float32)
    wanted, found = (run(image) for run in candidates.values())
    difference = max(abs(x - y).max() / abs(y).max() for x, y in zip(found, wanted, strict=True))
    seconds = {name: [] for name in candidates}
    for _ in range(9):
        for name, run in candidates.items():
            start = time.perf_counter()
            run(image)
            seconds[name].append(time.perf_counter() - start)
    times = ', '.join(f'{name} {1000 * statistics.median(s):.0f} ms' for name, s in seconds.items())
    print(f'{batch} x {height} x {width}: largest difference {difference:.1e}; {times}')
