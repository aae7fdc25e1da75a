"""The shipped classification configs: what they say, what they build, that they learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).parents[1] / 'configs/classification'
LEAVES = {path.stem: path for path in sorted(ROOT.glob('*.py'))}

pytestmark = pytest.mark.usefixtures('mmpretrain')


@pytest.mark.parametrize('leaf', LEAVES)
def test_a_config_builds_its_classifier(leaf: str) -> None:
    cfg = Config.fromfile(LEAVES[leaf])
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
        assert model(torch.zeros(2, 3, 224, 224), mode='tensor').shape == (2, 1000)
