"""Comparisons of networks, trained and evaluated alike, with paired tests: ``convformer-monai experiment``."""

from convformer_monai.experiments.cells import EXPERIMENTS, Cell, make_cells
from convformer_monai.experiments.curves import draw_pictures
from convformer_monai.experiments.pack import pack_experiment
from convformer_monai.experiments.rates import choose_rates
from convformer_monai.experiments.record import Record
from convformer_monai.experiments.runner import Runner
from convformer_monai.experiments.table import write_table

__all__ = [
    "EXPERIMENTS",
    "Cell",
    "Record",
    "Runner",
    "choose_rates",
    "draw_pictures",
    "make_cells",
    "pack_experiment",
    "write_table",
]
