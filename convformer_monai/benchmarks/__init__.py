"""What ``scripts/benchmark NAME`` runs: one module a name, each with a ``main``."""
