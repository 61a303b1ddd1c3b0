"""The command ``convformer-monai``: arguments in, exit code out; the work is done elsewhere.

One file holds the commands of one group, which are options only. Nothing heavy is imported before a command runs, so
that ``--help`` answers at once.
"""

from convformer_monai.cli.app import app, main, run

__all__ = ["app", "main", "run"]
