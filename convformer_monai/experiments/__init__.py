"""Comparisons of networks, trained and evaluated alike, with paired tests: ``convformer-monai experiment``."""

from convformer_monai.experiments.cells import EXPERIMENTS, Cell, make_cells
from convformer_monai.experiments.runner import Runner
from convformer_monai.experiments.table import write_table

__all__ = ["EXPERIMENTS", "Cell", "Runner", "make_cells", "write_table"]
