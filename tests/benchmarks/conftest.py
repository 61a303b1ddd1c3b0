"""A small network in the place of BLAST-CT's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

NETWORK = '''
import torch

class DeepMedic(torch.nn.Module):
    """What is brighter than 50 HU is extra-axial blood; takes three voxels of context on each side."""

    def __init__(self, channels, classes):
        super().__init__()
        self.limit = torch.nn.Parameter(torch.tensor(0.0))

    def calculate_input_size(self, size):
        return tuple(side + 6 for side in size)

    def forward(self, x):
        bright = (x[:, :, 3:-3, 3:-3, 3:-3].float() - self.limit) * 50
        none = torch.zeros_like(bright)
        return torch.cat([-bright, none - 99, bright, none - 99, none - 99], 1), {}
'''


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder like BLAST-CT's repository."""
    (tmp_path / "blast_ct" / "models").mkdir(parents=True)
    (tmp_path / "blast_ct" / "models" / "__init__.py").touch()
    (tmp_path / "blast_ct" / "models" / "deepmedic.py").write_text(NETWORK)
    weights = tmp_path / "blast_ct" / "data" / "saved_models"
    weights.mkdir(parents=True)
    torch.save({"limit": torch.tensor(2 * (50 + 15) / 115 - 1)}, weights / "model_1.pt")
    return tmp_path
