"""What ``convformer-monai benchmark NAME`` runs: one module a name, each with a function ``run``."""
