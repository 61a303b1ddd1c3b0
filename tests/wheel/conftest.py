"""These tests need the built wheel in an environment of its own: `scripts/test --wheel` makes both and runs them."""

import os

collect_ignore_glob = [] if os.environ.get("CONVFORMER_WHEEL") else ["test_*.py"]
