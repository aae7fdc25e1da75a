"""Run a detector or segmentor that `vitbackbones export --part model` wrote, without PyTorch.

python run_onnx.py MODEL.onnx IMAGE_OR_FOLDER ... --out-dir RESULTS [--runtime openvino]

Writes NAME_prediction.jpg for every image NAME; of detectors NAME.json too, of segmentors
NAME_labels.png, whose pixels are class indices. Needs numpy, OpenCV and onnxruntime or openvino,
nothing of ours: copy this file, and in programs call Model(PATH).predict(IMAGE).
"""

import argparse
import json
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np


class RunError(Exception):
    """One sentence about what cannot be done."""


def with_onnxruntime(onnxruntime, path):
    """What the file says of itself, and a function from its input to its outputs in order."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say is in its exceptions
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    card = session.get_modelmeta().custom_metadata_map.get('vitbackbones')
    return card, lambda image: session.run(None, {'image': image})


def with_openvino(openvino, path):
    core, place = openvino.Core(), ['framework', 'vitbackbones']
    model = core.read_model(path)
    card = model.get_rt_info(place).astype(str) if model.has_rt_info(place) else None
    # Where a CPU has units for bfloat16, OpenVINO would use them unasked.
    compiled = core.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    return card, lambda image: list(compiled([image]).values())


class Model:
    """A detector or segmentor (RunError: the file is none); ``card`` has its classes and more."""

    def __init__(self, path: str, runtime: str = 'onnxruntime') -> None:
        if not Path(path).is_file():
            raise RunError(f'there is no file {path}')
        try:
            engine = import_module(runtime)
            read = with_openvino if runtime == 'openvino' else with_onnxruntime
            text, self._run = read(engine, path)
        except ImportError as error:
            raise RunError(f'{runtime} is missing: pip install {runtime}') from error
        except Exception as error:  # of kinds of each runtime's own
            why = f'it is no ONNX file, or {runtime} {engine.__version__} is too old for it'
            raise RunError(f'{path} cannot be read: {why}') from error
        self.card = json.loads(text or '{}')
        if self.card.get('format') != 1:
            raise RunError(f'{path} has no card of `vitbackbones export --part model`, in format 1')

    def predict(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """What is found in an image (H, W, 3) of BGR in uint8, as OpenCV reads it.

        Of detectors ``boxes`` (N, 4), x1, y1, x2, y2 in pixels of the image, ``scores`` (N,), best
        first, ``labels`` (N,) and, where there are masks, ``masks`` (N, H, W) bool. Of segmentors
        ``labels`` (H, W) and, if the file has them, ``probabilities`` (C, h, w) as the network saw
        the image. Raises RunError: the file does not take an image of that size.
        """
        card, (height, width) = self.card, image.shape[:2]
        w, h = self._size(width, height)
        try:
            outputs = self._run(self._input(cv2.resize(image, (w, h))))
        except Exception as error:  # of kinds of each runtime's own
            raise RunError(f'{w} x {h} pixels cannot be computed: {error}') from error
        if card['task'] == 'labels':
            seen = outputs[0][0, ..., :h, :w]
            if not card['probabilities']:
                return {'labels': nearest(seen, (width, height))}
            labels = label_map(seen, (width, height), card['mask_threshold'])
            return {'labels': labels, 'probabilities': seen}
        found = dict(zip(('boxes', 'scores', 'labels', 'masks'), outputs, strict=False))
        found['boxes'] = found['boxes'] / np.float32([w / width, h / height] * 2)
        if 'masks' in found:
            masks = np.zeros((len(found['boxes']), height, width), bool)
            for mask, given, box in zip(masks, found['masks'], found['boxes'], strict=True):
                if card['masks'] == 'raw':
                    paste(given, box, card['mask_threshold'], mask)
                else:
                    mask[:] = nearest(given[:h, :w], (width, height))
            found['masks'] = masks
        return found

    def _size(self, width, height):
        """Width and height that an image is resized to."""
        card = self.card
        wide, high = (card['scale'] or (width, height)) if card['dynamic'] else card['size'][::-1]
        if card['keep_ratio'] is False:
            return wide, high
        if card['dynamic']:  # a scale is for high images as for wide ones
            wide, high = sorted((wide, high), reverse=width >= height)
        factor = min(wide / width, high / height)
        return max(int(width * factor + 0.5), 1), max(int(height * factor + 0.5), 1)

    def _input(self, image):
        """An image as the file takes it; one for a single size is filled up with the mean."""
        card = self.card
        if not card['dynamic']:
            below, right = np.subtract(card['size'], image.shape[:2]).tolist()
            mean = np.clip(np.round(card['mean'][::-1]), 0, 255).tolist()
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=mean)
        image = image if card['channels'] == 'bgr' else image[..., ::-1]
        image = image if card['layout'] == 'hwc' else image.transpose(2, 0, 1)
        return np.ascontiguousarray(image[None], card['dtype'])

    def draw(self, image, found, least=0.3):
        """A copy of the image with what :meth:`predict` found, boxes from a score on."""
        image, palette = image.copy(), np.array(self.card['palette'], np.uint8)[:, ::-1]
        if self.card['task'] == 'labels':
            return cv2.addWeighted(image, 0.3, palette[found['labels']], 0.7, 0)
        for i in np.flatnonzero(found['scores'] >= least)[::-1]:
            label, colour = found['labels'][i], palette[found['labels'][i]]
            if 'masks' in found:
                image[found['masks'][i]] = image[found['masks'][i]] // 2 + colour // 2
            x1, y1, x2, y2 = found['boxes'][i].astype(int).tolist()
            cv2.rectangle(image, (x1, y1), (x2, y2), colour.tolist(), 2)
            text = f'{self.card["classes"][label]} {found["scores"][i]:.2f}'
            cv2.putText(image, text, (x1 + 3, y1 + 14), 0, 0.45, colour.tolist())
        return image


def paste(small, box, threshold, whole):
    """Set pixels of ``whole`` (H, W) where the mask in a box, probabilities (h, w), is high."""
    places, weights = [], []
    for axis, cells in enumerate(small.shape):
        low, high = box[1 - axis], box[3 - axis]
        first, last = max(int(low) - 1, 0), min(int(np.ceil(high)) + 1, whole.shape[axis])
        at = (np.arange(first, last) + 0.5 - low) / max(high - low, 1e-6) * cells - 0.5
        weights.append(np.maximum(1 - abs(at[:, None] - np.arange(cells)), 0))  # bilinear
        places.append(slice(first, last))
    whole[tuple(places)] = weights[0] @ small @ weights[1].T >= threshold


def nearest(pixels, size):
    return cv2.resize(pixels.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST_EXACT)


def label_map(values, size, threshold):
    """Labels at another size: logarithms are interpolated, which is what mmseg does with logits."""
    if len(values) == 1:
        values = np.concatenate([(1 - values) * threshold, values * (1 - threshold)])
    best, labels = np.float32(-np.inf), np.int64(0)
    for label, logarithms in enumerate(np.log(np.maximum(values, 1e-38))):
        here = cv2.resize(logarithms, size)
        labels, best = np.where(here > best, label, labels), np.maximum(here, best)
    return labels


def find_images(places):
    for place in places:
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        images = [path for path in files if path.is_file() and cv2.haveImageReader(str(path))]
        if not images:
            raise RunError(f'{place} is neither an image nor a folder of images')
        yield from images


def main(args):
    model, paths = Model(args.model, args.runtime), list(find_images(args.images))
    if len({path.stem for path in paths}) < len(paths):
        raise RunError('two images have one name and would be written to the same file')
    args.out_dir.mkdir(parents=True, exist_ok=True)
    classes = model.card['classes']
    for number, path in enumerate(paths):
        image = cv2.imread(str(path))
        if image is None:
            raise RunError(f'{path} cannot be decoded')
        found = model.predict(image)
        labels, target = found['labels'], f'{args.out_dir / path.stem}'
        cv2.imwrite(f'{target}_prediction.jpg', model.draw(image, found, args.score))
        if labels.ndim == 2:
            cv2.imwrite(f'{target}_labels.png', labels.astype('B' if len(classes) <= 256 else 'H'))
        else:
            rows = {key: found[key].tolist() for key in ('boxes', 'scores')}
            rows['classes'] = [classes[label] for label in labels]
            Path(f'{target}.json').write_text(json.dumps(rows))
            labels = labels[found['scores'] >= args.score]
        names = ', '.join(classes[label] for label in np.unique(labels))
        print(f'{number + 1}/{len(paths)} {path}: {names or "nothing"}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('model', help='a file of `vitbackbones export --part model`')
    parser.add_argument('images', nargs='+', type=Path, help='files, or folders of them')
    parser.add_argument('--out-dir', type=Path, required=True, help='where results are written')
    parser.add_argument('--score', type=float, default=0.3, help='of boxes drawn (%(default)s)')
    parser.add_argument('--runtime', default='onnxruntime', choices=('onnxruntime', 'openvino'))
    try:
        main(parser.parse_args())
    except (RunError, OSError) as error:
        parser.exit(2, f'run_onnx: {error}\n')
