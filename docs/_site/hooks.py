"""What MkDocs does beside its own work: puts the repository's other documents into the site, and leads links there.

Links in the documents are paths of the repository, as a git host needs them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
BUNDLES = {
    "cardiac": "cardiac_mri_convformer_segmentation",
    "dermoscopy": "dermoscopy_convformer_segmentation",
    "hemorrhage": "ct_hemorrhage_convformer_segmentation",
}
#: files outside of docs, by their path in the repository, and where they lie in the site
PLACES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "LICENSE": "files/LICENSE.txt",
    "CITATION.cff": "files/CITATION.txt",
}
for _name, _folder in BUNDLES.items():
    PLACES[f"bundles/{_folder}/docs/README.md"] = f"bundles/{_name}.md"
    PLACES[f"bundles/{_folder}/docs/data_license.txt"] = f"bundles/{_name}_data_license.txt"
    PLACES[f"bundles/{_folder}/LICENSE"] = f"bundles/{_name}_license.txt"
SOURCES = {place: source for source, place in PLACES.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Adds the files that lie outside of docs."""
    for source, place in PLACES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Leads links to where the files lie in the site."""
    place = page.file.src_uri
    source = SOURCES.get(place, f"docs/{place}")

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match.group(1)))
        inside = PLACES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else f"/{target}")
        return posixpath.relpath(inside, posixpath.dirname(place)) if inside[0] != "/" else match.group(1)

    return LINK.sub(moved, markdown)
