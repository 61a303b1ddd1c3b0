"""These tests need MONAI Label: `scripts/test --label` runs them, in an environment of their own."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("monailabel") else ["test_*.py"]
