"""Run a detector or segmentor that `vitbackbones export --part model` wrote, without PyTorch.

python run_onnx.py MODEL.onnx IMAGE_OR_FOLDER ... --out-dir RESULTS [--runtime openvino]

Writes NAME_prediction.jpg for every image NAME; of detectors NAME.json too, of segmentors
NAME_labels.png, whose pixels are class indices. Needs numpy, OpenCV and onnxruntime or openvino,
nothing of ours: copy this file, and in programs call Model(PATH).predict(IMAGE).
"""

import argparse
import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np

nearest = partial(cv2.resize, interpolation=cv2.INTER_NEAREST_EXACT)


class RunError(Exception):
    """What cannot be done, in one sentence."""


def read(engine, path):
    """What a file says of itself, and a function from its input to its outputs in order."""
    if engine.__name__ == 'openvino':
        core, place = engine.Core(), ['framework', 'vitbackbones']
        model = core.read_model(path)
        card = model.get_rt_info(place).astype(str) if model.has_rt_info(place) else '{}'
        compiled = core.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})  # not bf16
        return dict(json.loads(card)), lambda image: list(compiled([image]).values())
    options = engine.SessionOptions()
    options.log_severity_level = 4  # what it has to say is in its exceptions
    session = engine.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    card = session.get_modelmeta().custom_metadata_map.get('vitbackbones', '{}')
    return dict(json.loads(card)), lambda image: session.run(None, {'image': image})


class Model:
    """A detector or segmentor (RunError: the file is none); ``card`` has its classes and more."""

    def __init__(self, path: str, runtime: str = 'onnxruntime') -> None:
        if not Path(path).is_file():
            raise RunError(f'there is no file {path}')
        try:
            engine = __import__(runtime)
            self.card, self._run = read(engine, path)
        except ImportError as error:
            raise RunError(f'{runtime} is missing: pip install {runtime}') from error
        except Exception as error:  # of kinds of each runtime's own
            why = f'it is another kind of file, or {runtime} {engine.__version__} is too old for it'
            raise RunError(f'{path} cannot be read: {why}') from error
        if self.card.get('format') != 1:
            raise RunError(f'{path} has no card of `vitbackbones export --part model`, in format 1')
        if self.card['task'] == 'labels' and len(self.card['classes']) == 1:  # 0 is all the rest
            self.card['classes'] = ['background', *self.card['classes']]
            self.card['palette'] = [[0, 0, 0], *self.card['palette']]

    def predict(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """What is found in an image (H, W, 3) of BGR in uint8, as OpenCV reads it.

        Of detectors, best first, ``boxes`` (N, 4), x1, y1, x2, y2 in its pixels, ``scores`` (N,),
        ``labels`` (N,) and ``masks`` (N, H, W) bool if there are; of segmentors ``labels`` (H, W)
        and perhaps ``probabilities`` (C, h, w). Raises RunError: the image is too small.
        """
        card, size = self.card, image.shape[1::-1]
        w, h = self._size(*size)
        if card['dynamic'] and min(w, h) < card.get('smallest', 1):
            raise RunError(f'{w} x {h} pixels: both sides need {card["smallest"]} at least')
        outputs = self._run(self._input(cv2.resize(image, (w, h))))
        if card['task'] == 'labels':
            seen = outputs[0][0, ..., :h, :w]
            if not card['probabilities']:
                return {'labels': nearest(seen.astype('H'), size)}
            return {'labels': label_map(seen, size, card['mask_threshold']), 'probabilities': seen}
        found = dict(zip(('boxes', 'scores', 'labels', 'masks'), outputs, strict=False))
        inside = (found['boxes'][:, :2] < (w, h)).all(1)  # the others are where it was filled up
        found = {key: values[inside] for key, values in found.items()}
        found['boxes'] = found['boxes'] * np.float32([size[0] / w, size[1] / h] * 2)
        if 'masks' in found:
            masks = np.zeros((len(found['boxes']), *image.shape[:2]), bool)
            for mask, given, box in zip(masks, found['masks'], found['boxes'], strict=True):
                if card['masks'] == 'raw':
                    paste(given, box, card['mask_threshold'], mask)
                else:
                    mask[:] = nearest(given[:h, :w].astype('H'), size)
            found['masks'] = masks
        found['boxes'] = np.minimum(found['boxes'], np.float32(size * 2))
        return found

    def _size(self, width, height):  # that an image is resized to
        card = self.card
        wide, high = (card['scale'] or (width, height)) if card['dynamic'] else card['size'][::-1]
        if card['keep_ratio'] is False:
            return wide, high
        if card['dynamic']:  # a scale is for high images as for wide ones
            wide, high = sorted((wide, high), reverse=width >= height)
        factor = min(wide / width, high / height)
        return max(int(width * factor + 0.5), 1), max(int(height * factor + 0.5), 1)

    def _input(self, image):  # filled up with the mean, if there is one size
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


def label_map(values, size, threshold):
    """Labels at another size: logarithms are interpolated, which is what mmseg does with logits."""
    if len(values) == 1:
        values = np.concatenate([(1 - values) * threshold, values * (1 - threshold)])
    best, labels = np.float32(-np.inf), np.int64(0)
    for label, logarithms in enumerate(np.log(np.maximum(values, 1e-38))):
        here = cv2.resize(logarithms, size)
        labels, best = np.where(here > best, label, labels), np.maximum(here, best)
    return labels


def find_images(place):
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    images = [path for path in files if path.is_file() and cv2.haveImageReader(str(path))]
    if not images:
        raise RunError(f'{place} is neither an image nor a folder of images')
    return images


def main(args):
    model = Model(args.model, args.runtime)
    paths = [path for place in args.images for path in find_images(place)]
    if len({path.stem for path in paths}) < len(paths):
        raise RunError('two images have one name and would be written to the same file')
    classes, ends = model.card['classes'], ('_prediction.jpg', '_labels.png', '.json')
    there = [path for path in paths for end in ends if (args.out_dir / (path.stem + end)).exists()]
    if there and not args.force:
        raise RunError(f'{args.out_dir} has results of {there[0].stem}: --force overwrites them')
    for number, path in enumerate(paths):
        image = cv2.imread(str(path))
        if image is None:
            raise RunError(f'{path} cannot be decoded')
        found = model.predict(image)
        args.out_dir.mkdir(parents=True, exist_ok=True)
        labels, target = found['labels'], f'{args.out_dir / path.stem}'
        drawing = cv2.imencode('.jpg', model.draw(image, found, args.score))[1]
        Path(f'{target}_prediction.jpg').write_bytes(drawing)
        if labels.ndim == 2:
            pixels = labels.astype('B' if len(classes) <= 256 else 'H')
            Path(f'{target}_labels.png').write_bytes(cv2.imencode('.png', pixels)[1])
        else:
            rows = {'classes': [classes[label] for label in labels]}
            rows.update((key, found[key].tolist()) for key in ('boxes', 'scores'))
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
    parser.add_argument('--force', action='store_true', help='overwrite results')
    try:
        main(parser.parse_args())
    except (RunError, OSError) as error:
        parser.exit(2, f'run_onnx: {error}\n')
