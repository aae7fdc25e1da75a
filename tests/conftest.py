"""What several test modules share."""

from __future__ import annotations

import pytest
import torch

# Two cores serve several workers at once; more threads each would only wait for one another.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
