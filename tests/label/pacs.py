"""A real PACS for the tests: Orthanc with its DICOMweb plugin, on the loopback, with no users and no network."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import requests
from pydicom.dataset import FileDataset
from servers import free_port, running

# Debian puts it where not every user's PATH leads
ORTHANC = shutil.which("Orthanc", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
TIMEOUT_S = 60


@dataclass(frozen=True)
class Pacs:
    """A running Orthanc.

    Attributes:
        address: of Orthanc's own REST interface, without a slash at the end.
        process: the server.
    """

    address: str
    process: subprocess.Popen

    @property
    def dicomweb(self) -> str:
        """Address of DICOMweb, as MONAI Label takes it for its studies."""
        return f"{self.address}/dicom-web"

    def upload(self, paths: Path | Iterable[Path]) -> list[str]:
        """Sends DICOM files, or all files of a folder; returns Orthanc's own names of the instances."""
        files = sorted(paths.iterdir()) if isinstance(paths, Path) and paths.is_dir() else paths
        names = []
        for path in [files] if isinstance(files, Path) else files:
            answer = requests.post(f"{self.address}/instances", data=Path(path).read_bytes(), timeout=TIMEOUT_S)
            answer.raise_for_status()
            names.append(answer.json()["ID"])
        return names

    def find(self, level: str, **query: str) -> list[str]:
        """Orthanc's names of what fits, such as ``find("Series", Modality="SEG")``.

        Args:
            level: Patient, ImageSeries, Series or Instance.
            query: wanted values of DICOM attributes, by keyword.
        """
        body = {"Level": level, "Query": query, "CaseSensitive": True}
        answer = requests.post(f"{self.address}/tools/find", json=body, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return list(answer.json())

    def series(self, **query: str) -> list[dict[str, Any]]:
        """The series that fit, all without a query: SeriesInstanceUID, StudyInstanceUID, Modality, instances."""
        found = []
        for name in self.find("Series", **query):
            series = self._get(f"series/{name}").json()
            study = self._get(f"studies/{series['ParentStudy']}").json()
            tags = {"Modality": "", **series["MainDicomTags"], "instances": series["Instances"]}
            found.append({**tags, "StudyInstanceUID": study["MainDicomTags"]["StudyInstanceUID"]})
        return found

    def segmentations(self) -> list[FileDataset]:
        """All DICOM SEG that are stored."""
        return [self.fetch(name) for series in self.series(Modality="SEG") for name in series["instances"]]

    def fetch(self, name: str) -> FileDataset:
        """The stored file of one instance, by Orthanc's name."""
        return pydicom.dcmread(BytesIO(self._get(f"instances/{name}/file").content))

    def _get(self, path: str) -> requests.Response:
        answer = requests.get(f"{self.address}/{path}", timeout=TIMEOUT_S)
        answer.raise_for_status()
        return answer


@contextlib.contextmanager
def orthanc(folder: Path, **more: object) -> Iterator[Pacs]:
    """Runs Orthanc until the block ends.

    Args:
        folder: for its configuration, its log and all that it stores; made if missing.
        more: settings that replace those of the tests, as ``HttpPort``.

    Yields:
        The running server, empty if the folder is new.

    Raises:
        FileNotFoundError: if Orthanc or its plugin is not installed.
    """
    if ORTHANC is None or not DICOMWEB_PLUGIN.exists():
        raise FileNotFoundError("needs Orthanc: Debian's packages orthanc and orthanc-dicomweb")
    folder.mkdir(parents=True, exist_ok=True)
    port = more.pop("HttpPort", None) or free_port()
    settings = {
        "Name": "tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(DICOMWEB_PLUGIN)],
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **more,
    }
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(settings))
    address = f"http://127.0.0.1:{port}"
    with running([ORTHANC, str(configuration)], f"{address}/system", folder / "orthanc.log", cwd=folder) as process:
        yield Pacs(address, process)
