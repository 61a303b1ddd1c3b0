"""``python -m convformer_monai.cli``."""

from convformer_monai.cli.app import run

if __name__ == "__main__":
    run()
