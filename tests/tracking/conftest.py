"""A small model to track."""

from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(6, 5)
