"""What whole models are exported with: suppression, RoIs, masks and pooling, in torch and ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mmcv.ops import batched_nms
from torch import Tensor, nn

from vitbackbones.deploy.candidates import Candidates, best
from vitbackbones.deploy.doubt import Doubt, fates
from vitbackbones.deploy.masks import paste
from vitbackbones.deploy.onnx import open_file, write_program
from vitbackbones.deploy.operators import Rule, roi_align, translations
from vitbackbones.deploy.segmentors import AdaptivePooling

RULE = Rule(overlap=0.5, score=0.05, most=40, least=2.0)


def boxes(number: int, seed: int = 0, side: float = 90) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator) * side
    extent = torch.rand(number, 2, generator=generator) * 30
    return torch.cat([corner, corner + extent], 1)


def rows(number: int, seed: int = 0) -> Tensor:
    """Boxes, scores and groups in one tensor (N, 6)."""
    generator = torch.Generator().manual_seed(seed + 1)
    scores = torch.rand(number, 1, generator=generator)
    groups = torch.randint(0, 3, (number, 1), generator=generator)
    return torch.cat([boxes(number, seed), scores, groups.float()], 1)


def as_file(module: nn.Module, example: Tensor, path: Path, outputs: Sequence[str]) -> Any:
    free = {0: 'number'}
    table = translations()
    write_program(module, example, path, outputs, free=free, opset=18, table=table)
    return open_file(path)


# ---------------------------------------------------------------------------- suppression


class Keeping(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return RULE.keep(image[:, :4], image[:, 4], image[:, 5].to(torch.int64))


@pytest.fixture(scope='module')
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp('keeping') / 'keep.onnx'
    return as_file(Keeping(), rows(50), path, ['kept'])


def wanted(given: Tensor) -> Tensor:
    """As mmdet composes it of mmcv's functions."""
    box, score, group = given[:, :4], given[:, 4], given[:, 5].to(torch.int64)
    fit = (score > 0.05) & ((box[:, 2:] - box[:, :2]) > 2).all(1)
    index = fit.nonzero()[:, 0]
    if not len(index):
        return index
    options = dict(type='nms', iou_threshold=0.5)
    _, kept = batched_nms(box[index], score[index], group[index], options)
    return index[kept][:40]


@pytest.mark.parametrize('number', [0, 1, 7, 400])
def test_the_same_boxes_stay_as_in_mmdet_and_in_the_file(number: int, keeping: Any) -> None:
    for seed in range(5):
        given = rows(number, seed)
        (found,) = keeping(given)
        assert found.tolist() == wanted(given).tolist() == Keeping()(given).tolist()


def test_boxes_of_no_extent_or_no_score_leave_nothing(keeping: Any) -> None:
    given = rows(30)
    given[:, 4] = 0.05  # has to be more
    assert keeping(given)[0].tolist() == wanted(given).tolist() == []
    given = rows(30)
    given[:, 2] = given[:, 0]
    assert keeping(given)[0].tolist() == wanted(given).tolist() == []


def test_of_equal_scores_any_may_stay(keeping: Any) -> None:
    given = rows(60)
    given[:, 4] = 0.5
    group = given[:, 5].to(torch.int64)
    fate = fates(Candidates(given[:, :4], given[:, 4], group), RULE, Doubt(0, 0))
    sure, possible = (set(each.nonzero()[:, 0].tolist()) for each in fate[::-1])
    for found in (keeping(given)[0], wanted(given), Keeping()(given)):
        assert sure <= set(found.tolist()) <= possible


# ----------------------------------------------------------------------------------- RoIs


class Aligning(nn.Module):
    """Three maps of an image of 96 x 96."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.maps = [torch.randn(1, 4, n, n, generator=generator) for n in (24, 12, 6)]
        self.samples = samples

    def forward(self, image: Tensor) -> Tensor:
        return roi_align(self.maps, image, [4.0, 8.0, 16.0], 14.0, 3, 5, self.samples)


@pytest.mark.parametrize('samples', [0, 2])
def test_rois_are_read_as_mmdet_reads_them(samples: int, tmp_path: Path) -> None:
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    module = Aligning(samples)
    layer = dict(type='RoIAlign', output_size=(3, 5), sampling_ratio=samples)
    theirs = SingleRoIExtractor(layer, 4, [4, 8, 16], finest_scale=14)
    run = as_file(module, boxes(20), tmp_path / 'align.onnx', ['cells'])
    edges = [[0, 0, 28, 28], [0, 0, 56, 56], [5, 5, 5, 5], [3, 0, 3, 96], [0, 0, 96, 96]]
    for given in (boxes(50), torch.tensor(edges).float(), boxes(1), boxes(0)):
        (found,) = run(given)
        ours = module(given)
        numbered = torch.cat([torch.zeros(len(given), 1), given], 1)
        torch.testing.assert_close(ours, theirs(module.maps, numbered), rtol=0, atol=1e-6)
        torch.testing.assert_close(found, ours, rtol=0, atol=2e-6)


# ---------------------------------------------------------------------------------- doubt


def kept(given: Tensor, rule: Rule = RULE) -> set[int]:
    return set(rule.keep(given[:, :4], given[:, 4], given[:, 5].to(torch.int64)).tolist())


def test_whatever_rounding_does_stays_between_sure_and_possible() -> None:
    doubt = Doubt(score=5e-3, pixels=0.3)
    undecided = turned = 0
    for seed in range(6):
        given = rows(300, seed)
        group = given[:, 5].to(torch.int64)
        fate = fates(Candidates(given[:, :4], given[:, 4], group), RULE, doubt)
        sure, possible = (set(each.nonzero()[:, 0].tolist()) for each in fate[::-1])
        assert sure <= possible
        undecided += len(possible - sure)
        results = set()
        for trial in range(20):
            generator = torch.Generator().manual_seed(trial)
            off = torch.rand(given.shape, generator=generator) * 2 - 1
            off *= torch.tensor([0.3, 0.3, 0.3, 0.3, 5e-3, 0])
            found = kept(given + off)
            assert sure <= found <= possible
            results.add(frozenset(found))
        turned += len(results) > 1
    assert undecided > 0
    assert turned > 2  # or nothing was in doubt


def test_what_is_far_from_any_decision_is_not_doubted() -> None:
    given = rows(300)
    group = given[:, 5].to(torch.int64)
    found = Candidates(given[:, :4], given[:, 4], group)
    fate = fates(found, RULE, Doubt(score=0.0, pixels=0.0))
    assert set(fate.sure.nonzero()[:, 0].tolist()) == kept(given)
    assert (fate.possible & ~fate.sure).sum() <= 2


def test_the_best_scores_with_a_margin_are_all_that_may_be_among_them() -> None:
    scores = torch.tensor([0.9, 0.5, 0.7, 0.7 - 1e-5, 0.1, 0.7 + 1e-3])
    assert best(scores, 3).places.tolist() == [0, 5, 2]
    found = best(scores, 3, margin=1e-4)
    assert sorted(found.places.tolist()) == [0, 2, 3, 5]
    assert found.sure is not None
    certain = {
        i for i, sure in zip(found.places.tolist(), found.sure.tolist(), strict=True) if sure
    }
    assert certain == {0, 5}
    assert len(best(scores, 9, margin=1e-4).places) == len(best(scores, 0).places) == 6


# ------------------------------------------------------------------------ masks and pooling


def test_masks_are_pasted_as_mmdet_does_on_a_cpu() -> None:
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    given = boxes(12, side=50)
    given[0] = torch.tensor([70.0, 10, 70, 40])  # at the right edge, without width
    given[1] = torch.tensor([0.0, 0, 70, 50])
    given[2] = torch.tensor([10.2, 50, 30.7, 50])
    given[:, 0::2] = given[:, 0::2].clamp(0, 70)
    given[:, 1::2] = given[:, 1::2].clamp(0, 50)
    masks = torch.rand(12, 7, 7)
    whole = paste(masks, given, 50, 70)
    for i in range(12):
        part, where = _do_paste_mask(masks[i : i + 1, None], given[i : i + 1], 50, 70)
        wanted = torch.zeros(50, 70)
        wanted[where] = part[0]
        torch.testing.assert_close(whole[i], wanted, rtol=0, atol=1e-5)
    assert paste(masks[:0], given[:0], 50, 70).shape == (0, 50, 70)


@pytest.mark.parametrize('size', [(1, 1), (2, 2), (3, 6)])
def test_pooling_over_a_grid_of_windows_is_two_products(size: tuple[int, int]) -> None:
    for shape in ((2, 3, 7, 11), (1, 3, 1, 2), (1, 2, 6, 6), (1, 1, 64, 85)):
        x = torch.randn(shape)
        wanted = nn.AdaptiveAvgPool2d(size)(x)
        torch.testing.assert_close(AdaptivePooling(size)(x), wanted, rtol=1e-5, atol=1e-6)
