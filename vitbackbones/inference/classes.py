"""What classifiers predict: the classes with most of the score, written and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from vitbackbones.plotting import drawable_names, font_for_images

MOST = 5  # classes of an image


def best_classes(sample: Any, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The classes with most of the score, the best first: ``label``, ``name`` and ``score``.

    Args:
        sample: mmpretrain's, with ``pred_score``, which sums up to 1; classes below 0 are left out.
        classes: names by label.
    """
    scores = sample.pred_score.flatten()
    values, labels = scores.topk(min(MOST, len(scores)))
    pairs = zip(values.tolist(), labels.tolist(), strict=True)
    found = [dict(label=label, name=classes[label], score=score) for score, label in pairs]
    return [row for row in found if not row['score'] < 0]


def classes_on(
    image: Image.Image, sample: Any, classes: Sequence[str], *, truth: bool
) -> Image.Image:
    """The image with its best classes below it, and above those its true one if asked for."""
    classes = drawable_names(classes)
    best = best_classes(sample, classes)
    rows = [(f'{row["name"]} {row["score"]:.2f}', row['score']) for row in best]
    font = font_for_images(11)
    line = 16
    label = int(sample.gt_label[0]) if truth and 'gt_label' in sample else None
    lines = len(rows) + (label is not None)
    longest = max([font.getlength(text) for text, _ in rows], default=0)
    if label is not None:
        longest = max(longest, font.getlength(f'truth: {classes[label]}'))
    width = max(image.width, round(longest) + 8)
    sheet = Image.new('RGB', (width, image.height + lines * line + 4), 'white')
    sheet.paste(image, (0, 0))
    pen = ImageDraw.Draw(sheet)
    top = image.height + 2
    if label is not None:
        right = best[0]['label'] == label
        colour = 'green' if right else 'red'
        pen.text((4, top), f'truth: {classes[label]}', fill=colour, font=font)
        top += line
    for i, (text, score) in enumerate(rows):
        y = top + i * line
        pen.rectangle((0, y + 1, max(round(score * (width - 1)), 1), y + line - 2), fill='#c8dcf0')
        pen.text((4, y), text, fill='black', font=font)
    return sheet
