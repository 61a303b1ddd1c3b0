"""Puts the bundles, which the repository keeps at its top level, into the wheel; all else is in setup.cfg."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCE = Path("bundles")
TARGET = "convformer_monai/_bundles"
KEPT = ("LICENSE", "configs/*.conf", "configs/*.json", "docs/*", "models/model.pt")  # not what runs leave there


class BuildWithBundles(build_py):
    """Copies `bundles` to `convformer_monai/_bundles`. An editable installation finds them beside the package."""

    def bundle_files(self) -> dict[str, str]:
        """The files by where they go; of an editable installation none."""
        if self.editable_mode:
            return {}
        files = [file for kept in KEPT for file in sorted(SOURCE.glob(f"*/{kept}")) if file.is_file()]
        return {str(Path(self.build_lib, TARGET, file.relative_to(SOURCE))): str(file) for file in files}

    def run(self) -> None:
        """Builds the package, then copies the bundles."""
        super().run()
        for target, file in self.bundle_files().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(file, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All files built."""
        return [*super().get_outputs(include_bytecode), *self.bundle_files()]

    def get_output_mapping(self) -> dict[str, str]:
        """Each file built, and from what."""
        return {**super().get_output_mapping(), **self.bundle_files()}


setup(cmdclass={"build_py": BuildWithBundles})
