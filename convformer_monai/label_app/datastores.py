"""Where images and labels lie: a folder, or a PACS with DICOMweb; MONAI Label's datastores, made strict.

Each image has a source, which the bundle reads (a file, or a folder of DICOM), and a file for viewers, which of DICOM
is a copy on the same grid. Labels are checked and renumbered before they are kept; see ``labels_in``.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series, dicom_web_upload_dcm
from monailabel.interfaces.datastore import DefaultLabelTag
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.label_app.labels_in import read_labels
from convformer_monai.label_app.links import leads_out
from convformer_monai.label_app.masks_out import COPIES, copy_for_viewer
from convformer_monai.label_app.options import LabelOptions
from convformer_monai.label_app.seg import write_seg
from convformer_monai.outputs.nifti import write_mask
from convformer_monai.outputs.png import write_png_mask
from convformer_monai.readers import ImageSeries, read_series
from convformer_monai.readers.cases import ITK_SUFFIXES, NIFTI_SUFFIXES, PHOTO_SUFFIXES, is_dicom
from convformer_monai.readers.dicom.masks import find_dicom_masks

__all__ = ["FolderDatastore", "PacsDatastore", "check_name"]

logger = logging.getLogger(__name__)

HEADERS = (".mhd", ".nhdr")  # their voxels are in another file, so viewers get a copy
NAME = re.compile(r"[^/\\\0]+")
UID = re.compile(r"[0-9.]{1,64}")
LABEL_EXTENSIONS = {False: ".nii.gz", True: ".png"}  # of volumes, of photographs


def check_name(name: str, what: str) -> str:
    """Refuses what is not a plain name: ids and tags become parts of paths.

    Raises:
        InputRefused: ``NAME``.
    """
    if not NAME.fullmatch(name) or name.startswith("."):
        raise InputRefused(RefusalCode.NAME, f"{name!r} is not a valid {what}")
    return name


def write_label(path: Path, labels: NDArray[np.uint8], series: ImageSeries) -> None:
    """Writes labels as they are kept: NIfTI on the image's grid, of photographs PNG of 0 and 255.

    Args:
        path: ending as in :data:`LABEL_EXTENSIONS`.
        labels: as of :func:`convformer_monai.label_app.labels_in.read_labels`.
        series: the image.
    """
    (write_png_mask if series.is_photo else write_mask)(path, labels, series, overwrite=True)


class Checked:
    """What both datastores share: names that are names, and labels that fit their image."""

    options: LabelOptions

    def source(self, image_id: str) -> Path:
        """The image as it is read: a file, or a folder of DICOM files.

        Raises:
            InputRefused: ``IMAGE_NOT_FOUND``.
        """
        raise NotImplementedError

    def series(self, image_id: str) -> ImageSeries:
        """Reads an image, strictly."""
        return read_series(self.source(image_id), phase="all")

    def checked_label(
        self, image_id: str, label: Path, info: Mapping[str, Any] | None
    ) -> tuple[ImageSeries, NDArray[np.uint8]]:
        """Reads a label for an image; see :func:`convformer_monai.label_app.labels_in.read_labels`."""
        series = self.series(image_id)
        label_info = (info or {}).get("label_info")
        if label_info is not None and not (
            isinstance(label_info, list) and all(isinstance(entry, Mapping) for entry in label_info)
        ):
            raise InputRefused(
                RefusalCode.LABEL_UNKNOWN, "label_info must be a list of segments, each with name and idx"
            )
        return series, read_labels(label, series, self.options.labels, label_info)


class FolderDatastore(Checked, LocalDatastore):  # type: ignore[misc]
    """Images in a folder: files, and folders of one DICOM series each. Other DICOM files are not listed, but logged.

    Args:
        folder: of the images; labels go to its ``labels``.
        options: of the server.
        auto_reload: notice files that come and go.
        read_only: change nothing at start.
    """

    def __init__(self, folder: str, options: LabelOptions, auto_reload: bool = True, read_only: bool = False) -> None:
        self.options = options
        self._not_listed: set[str] = set()
        endings = PHOTO_SUFFIXES if options.is_photo else NIFTI_SUFFIXES + ITK_SUFFIXES
        both = [f"*{ending}" for ending in (*endings, *map(str.upper, endings))]
        super().__init__(folder, extensions=both, auto_reload=auto_reload, read_only=read_only)

    @property
    def folder(self) -> Path:
        """The folder of the images."""
        return Path(self._datastore.image_path()).resolve()

    def source(self, image_id: str) -> Path:
        """See the base class."""
        entry = self._datastore.objects.get(image_id)
        if entry is None:
            raise InputRefused(RefusalCode.IMAGE_NOT_FOUND, f"there is no image {image_id!r} in the datastore")
        return self._inside(self.folder / str(self._filename(image_id, entry.image.ext)))

    def _inside(self, path: Path) -> Path:
        """Refuses to read or to write what a link leads to outside of the folder of images."""
        if leads_out(path, self.folder):
            raise InputRefused(
                RefusalCode.FORBIDDEN, f"{path.name!r} holds a link that leads out of the folder of images; remove it"
            )
        return path

    def get_image_uri(self, image_id: str) -> str:
        """The file for viewers; empty if there is no such image."""
        if image_id not in self._datastore.objects:
            return ""
        source = self.source(image_id)
        if source.is_file() and not source.name.lower().endswith(HEADERS):
            return str(source)
        folder = self.options.work / "copies"
        for copy in (folder / f"{image_id}{ending}" for ending in COPIES):
            if copy.is_file() and not copy.is_symlink() and copy.stat().st_mtime >= source.stat().st_mtime:
                return str(copy)
        folder.mkdir(parents=True, exist_ok=True)
        return str(copy_for_viewer(self.series(image_id), folder, image_id))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image; of a folder no path, since viewers open files."""
        info: dict[str, Any] = super().get_image_info(image_id)
        if image_id in self._datastore.objects and self.source(image_id).is_dir():
            info.pop("path", None)
        return info

    def add_image(self, image_id: str, image_filename: str, image_info: Mapping[str, Any]) -> str:
        """Takes an image that this bundle can read; never replaces one."""
        if image_id:
            check_name(image_id, "name of an image")
        stem, ending = self._to_id(Path(image_filename).name)
        name = image_id or stem
        if f"*{ending}" not in self._extensions:
            raise InputRefused(
                RefusalCode.NAME,
                f"{Path(image_filename).name} would not be listed; send a file named as one of "
                f"{', '.join(pattern[1:] for pattern in self._extensions if pattern.islower())}",
            )
        if name in self._datastore.objects:
            raise InputRefused(RefusalCode.EXISTS, f"there is an image {name!r} already; give another name")
        self._inside(self.folder / f"{name}{ending}")
        read_series(image_filename, phase="all")
        return str(super().add_image(image_id, image_filename, dict(image_info)))

    def remove_image(self, image_id: str) -> None:
        """Removes an image and its labels; not a folder of DICOM files."""
        if self.source(image_id).is_dir():
            raise InputRefused(RefusalCode.IS_A_FOLDER, f"{image_id!r} is a folder of DICOM files; remove it by hand")
        super().remove_image(image_id)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: Mapping[str, Any]) -> str:
        """Keeps a label once it is checked; what was there before is kept beside it as a backup."""
        check_name(label_tag, "tag of a label")
        ending = LABEL_EXTENSIONS[self.options.is_photo]
        self._inside(Path(self._datastore.label_path(label_tag)) / f"{image_id}{ending}")
        series, labels = self.checked_label(image_id, Path(label_filename), label_info)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"label{ending}"
            write_label(file, labels, series)
            self._keep_former(image_id, label_tag)
            return str(super().save_label(image_id, str(file), label_tag, dict(label_info or {})))

    def _keep_former(self, image_id: str, tag: str) -> None:
        former = self.get_label_uri(image_id, tag)
        if former and Path(former).is_file():
            backup = self.options.work / "replaced" / tag / Path(former).name
            backup.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(former, backup)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The file of a label; empty if there is none."""
        file = str(super().get_label_uri(label_id, check_name(label_tag, "tag of a label")))
        return str(self._inside(Path(file))) if file else ""

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Labelled images with their ids, for training."""
        tag = DefaultLabelTag.FINAL
        return [
            {"id": image_id, "image": str(self.source(image_id)), "label": self.get_label_uri(image_id, tag)}
            for image_id in sorted(self._datastore.filter_by_tag(tag))
        ]

    def _to_id(self, file: str) -> tuple[str, str]:
        if (self.folder / file).is_dir():
            return file, ""
        for pattern in self._extensions:
            ending = pattern.replace("*", "")
            if file.endswith(ending):
                return file[: -len(ending)], ending
        return Path(file).stem, Path(file).suffix

    def _list_files(self, path: str, patterns: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = super()._list_files(path, patterns)
        if Path(path).resolve() == self.folder:
            found = {name: file for name, file in found.items() if not name.startswith(".")}
            found |= {folder.name: folder.name for folder in self._dicom_folders()}
            self._note_others(found)
        return {name: file for name, file in found.items() if not leads_out(Path(path) / file, self.folder)}

    def _note_others(self, listed: Mapping[str, str]) -> None:
        """Logs DICOM files that are not listed, once."""
        others = {
            file.name for file in self.folder.iterdir() if file.is_file() and file.name not in listed and is_dicom(file)
        }
        if others - self._not_listed:
            logger.warning(
                "DICOM files in %s are not listed (%d, the first %s); %s",
                self.folder,
                len(others),
                min(others),
                "convert them to PNG" if self.options.is_photo else "give each series a folder of its own in it",
            )
        self._not_listed = others

    def _dicom_folders(self) -> list[Path]:
        if self.options.is_photo:
            return []
        folders = [entry for entry in self.folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        return [one for one in folders if any(file.is_file() and is_dicom(file) for file in sorted(one.iterdir())[:3])]


class PacsDatastore(Checked, DICOMWebDatastore):  # type: ignore[misc]
    """Images in a PACS: series by their UID; labels are stored there as DICOM Segmentation.

    Args:
        client: of DICOMweb.
        options: of the server.
        search_filter: which series are shown.
    """

    def __init__(self, client: Any, options: LabelOptions, search_filter: Mapping[str, Any]) -> None:
        self.options = options
        super().__init__(client, dict(search_filter), cache_path=str(options.work / "pacs"), fetch_by_frame=False)

    def source(self, image_id: str) -> Path:
        """See the base class; fetches the series once."""
        if not UID.fullmatch(image_id) or image_id not in self.list_images():
            raise InputRefused(
                RefusalCode.IMAGE_NOT_FOUND, f"there is no series {image_id!r} for this model in the PACS"
            )
        return self._fetched(image_id, Path(self._datastore.image_path()).resolve() / image_id)

    def _fetched(self, series_uid: str, folder: Path) -> Path:
        """Fetches a series into a folder, completely or not at all."""
        if not folder.is_dir():
            part = folder.with_name(f"part-{folder.name}")
            shutil.rmtree(part, ignore_errors=True)
            dicom_web_download_series(None, series_uid, str(part), self._client, False)
            part.replace(folder)
        return folder

    def get_image_uri(self, image_id: str) -> str:
        """The copy for viewers, beside the folder of the series."""
        source = self.source(image_id)
        if image_id in self._datastore.objects:
            for copy in (source.with_name(f"{image_id}{ending}") for ending in COPIES):
                if copy.is_file():
                    return str(copy)
        with tempfile.TemporaryDirectory() as folder:
            file = copy_for_viewer(self.series(image_id), Path(folder), image_id)
            LocalDatastore.add_image(self, image_id, str(file), self._dicom_info(image_id))
        return str(source.with_name(file.name))

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: Mapping[str, Any], label_id: str = ""
    ) -> str:
        """Keeps a label once it is checked; a final one is stored in the PACS as DICOM SEG, too."""
        check_name(label_tag, "tag of a label")
        self.get_image_uri(image_id)
        series, labels = self.checked_label(image_id, Path(label_filename), label_info)
        info = dict(label_info or {})
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "label.nii.gz"
            write_label(file, labels, series)
            if label_tag == DefaultLabelTag.FINAL:
                seg = write_seg(Path(folder) / "label.dcm", labels, series, self.options)
                info["SeriesInstanceUID"] = dicom_web_upload_dcm(str(seg), self._client)
                info["Modality"] = "SEG"
                self._forget()
            return str(LocalDatastore.save_label(self, image_id, str(file), label_tag, info))

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """The file of a label; empty if there is none."""
        return str(LocalDatastore.get_label_uri(self, label_id, check_name(label_tag, "tag of a label")))

    def _forget(self) -> None:
        """Lets the next question for series go to the PACS."""
        type(self).list_images.cache.clear()
        type(self).get_labeled_images.cache.clear()

    def _download_labeled_data(self) -> None:
        """Fetches the newest segmentation of each image from the PACS, whoever made it."""
        for image_id, seg in self._newest_segmentations().items():
            uid = str(seg.SeriesInstanceUID)
            known = self.get_label_info(image_id, DefaultLabelTag.FINAL)
            if known.get("SeriesInstanceUID") == uid and self.get_label_uri(image_id, DefaultLabelTag.FINAL):
                continue
            try:
                self.get_image_uri(image_id)
                files = find_dicom_masks(self._fetched(uid, Path(self.options.work).resolve() / "pacs_labels" / uid))
                if not files:
                    raise InputRefused(RefusalCode.NOT_A_MASK, f"series {uid} holds no DICOM SEG")
                series, labels = self.checked_label(image_id, files[0].parent, None)
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / "label.nii.gz"
                    write_label(file, labels, series)
                    info = {"SeriesInstanceUID": uid, "Modality": "SEG"}
                    LocalDatastore.save_label(self, image_id, str(file), DefaultLabelTag.FINAL, info)
            except InputRefused as refusal:
                logger.warning("the segmentation %s of %s is left out: %s", uid, image_id, refusal)

    def _newest_segmentations(self) -> dict[str, Dataset]:
        found: dict[str, Dataset] = {}
        images = set(self.list_images())
        for entry in self._client.search_for_series(search_filters={"Modality": "SEG"}):
            series = Dataset.from_json(entry)
            study_uid, uid = str(series.StudyInstanceUID), str(series.SeriesInstanceUID)
            first = Dataset.from_json(self._client.retrieve_series_metadata(study_uid, uid)[0])
            for item in first.get("ReferencedSeriesSequence", ()):
                image_id = str(item.SeriesInstanceUID)
                if image_id in images and (image_id not in found or _time(first) >= _time(found[image_id])):
                    found[image_id] = first
        return found

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Labelled series with their UIDs, for training."""
        self._download_labeled_data()
        tag = DefaultLabelTag.FINAL
        labelled = sorted(set(self._datastore.filter_by_tag(tag)) & set(self.list_images()))
        return [
            {"id": image_id, "image": str(self.source(image_id)), "label": self.get_label_uri(image_id, tag)}
            for image_id in labelled
        ]


def _time(seg: Dataset) -> tuple[str, str]:
    return str(seg.get("ContentDate") or ""), str(seg.get("ContentTime") or "")
