"""Results as files: one writer a file, and one case from file to files."""
