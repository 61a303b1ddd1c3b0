"""The refusal of an input: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import sys
from enum import Enum
from importlib.util import find_spec
from types import TracebackType

__all__ = [
    "InputRefused",
    "RefusalCode",
    "find_refusal",
    "need_highdicom",
    "printable",
    "refusal_table",
    "report_refusals",
]

EXIT_FAULT, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 130
DEBUG = "CONVFORMER_DEBUG"  # the environment variable that shows tracebacks


class RefusalCode(str, Enum):
    """Why an input is refused; the names are stable between versions.

    Attributes:
        text: what was wrong, in a sentence of ``docs/inputs.md``.
    """

    text: str

    def __new__(cls, name: str, text: str) -> RefusalCode:
        code = str.__new__(cls, name)
        code._value_ = name
        code.text = text
        return code

    def __str__(self) -> str:
        return str(self.value)

    FILE_NOT_FOUND = "FILE_NOT_FOUND", "there is no such file or folder"
    FOLDER_NOT_FOUND = "FOLDER_NOT_FOUND", "there is no such folder"
    CANNOT_READ = "CANNOT_READ", "a folder may not be read"
    EMPTY_FOLDER = "EMPTY_FOLDER", "a folder holds no files"
    NO_IMAGES = "NO_IMAGES", "a folder or list holds no image"
    NOT_AN_IMAGE = "NOT_AN_IMAGE", "the file is not an image that can be read, or it holds a mask"
    NOT_NIFTI = "NOT_NIFTI", "the file is not NIfTI"
    NOT_ITK = "NOT_ITK", "the file is not NRRD or MetaImage"
    NOT_PHOTO = "NOT_PHOTO", "the file is not a photograph"
    IS_A_FOLDER = "IS_A_FOLDER", "a file is needed, and this is a folder"
    DICOM_UNREADABLE = "DICOM_UNREADABLE", "the DICOM file is damaged or inconsistent"
    NIFTI_UNREADABLE = "NIFTI_UNREADABLE", "the NIfTI file is damaged"
    ITK_UNREADABLE = "ITK_UNREADABLE", "the NRRD or MetaImage file is damaged"
    PHOTO_UNREADABLE = "PHOTO_UNREADABLE", "the photograph is damaged"
    DATA_FILE = "DATA_FILE", "a header names a data file that is not beside it"
    TRUNCATED = "TRUNCATED", "the file was cut short"
    CODEC_MISSING = "CODEC_MISSING", "the compression needs `pip install 'convformer_monai[dicom]'`"
    TOO_LARGE = "TOO_LARGE", "the image is larger than the limits; headers say so before memory is taken"
    TOO_MANY_FILES = "TOO_MANY_FILES", "a folder holds more files than the limit"
    OUT_OF_MEMORY = "OUT_OF_MEMORY", "the image does not fit into the memory of this machine"
    SEVERAL_SERIES = "SEVERAL_SERIES", "a folder holds several series; `--series-uid` chooses one"
    SERIES_NOT_FOUND = "SERIES_NOT_FOUND", "the series chosen by `--series-uid` is not there"
    SEVERAL_PATIENTS = "SEVERAL_PATIENTS", "a folder holds images of several patients"
    SEVERAL_IMAGES = "SEVERAL_IMAGES", "a file holds several pictures, or a folder several images where one is needed"
    SEVERAL_FILES = "SEVERAL_FILES", "one image was given as several files"
    MISSING_SLICES = "MISSING_SLICES", "slices of the series are missing"
    DUPLICATE_SLICES = "DUPLICATE_SLICES", "slices of the series are there twice"
    UNEVEN_SPACING = "UNEVEN_SPACING", "slices are unevenly spaced; `--resample-uneven` resamples them"
    INCOMPLETE_PHASES = "INCOMPLETE_PHASES", "a cine has phases without all slices"
    SEVERAL_PHASES = "SEVERAL_PHASES", "a cine was given where one phase is needed"
    PHASE_NOT_FOUND = "PHASE_NOT_FOUND", "the image has no such phase"
    MOSAIC = "MOSAIC", "a Siemens mosaic: the slices are tiled in one picture; dcm2niix makes a volume of it"
    NO_GEOMETRY = "NO_GEOMETRY", "the file does not say where the image lies in the patient"
    NO_SPACING = "NO_SPACING", "the file does not say how large a voxel is"
    GEOMETRY_DISAGREES = "GEOMETRY_DISAGREES", "the file says two different things about the geometry"
    SPACING = "SPACING", "the spacing is not plausible"
    AFFINE = "AFFINE", "the affine is singular or not finite"
    UNITS = "UNITS", "the unit of length is not one that is known"
    FIELD_OF_VIEW = "FIELD_OF_VIEW", "the field of view is not plausible"
    DIMENSIONS = "DIMENSIONS", "the image has not the dimensions of a volume, a cine or a photograph"
    DATA_TYPE = "DATA_TYPE", "the values are not grey values or 8-bit colours"
    COLOUR = "COLOUR", "the slices are coloured"
    NOT_FINITE = "NOT_FINITE", "the values are not all finite numbers"
    RESCALE = "RESCALE", "the rescale slope or intercept is missing or meaningless"
    WRONG_MODALITY = "WRONG_MODALITY", "the modality is not that of the bundle; `--force-modality` takes it"
    WRONG_KIND = "WRONG_KIND", "a photograph was given for volumes, or a volume for photographs"
    EXISTS = "EXISTS", "a result is there already; `--overwrite` replaces it"
    CANNOT_WRITE = "CANNOT_WRITE", "a result or its folder cannot be written"
    OUTPUT_DIR = "OUTPUT_DIR", "the output folder cannot be made"
    NAME_TOO_LONG = "NAME_TOO_LONG", "the name of an image leaves no room for the endings of its results"
    EQUAL_NAMES = "EQUAL_NAMES", "two images would be written under one name"
    NOT_DICOM = "NOT_DICOM", "a DICOM result, or a DICOM series, was asked for of an image that is not DICOM"
    SOURCE_CHANGED = "SOURCE_CHANGED", "the DICOM files changed while they were worked on"
    NO_FRAME_OF_REFERENCE = (
        "NO_FRAME_OF_REFERENCE",
        "the DICOM files have no FrameOfReferenceUID, which a segmentation needs",
    )
    NO_SOP_UIDS = "NO_SOP_UIDS", "the DICOM files do not say which instances they are, which a DICOM result needs"
    NOT_A_MASK = "NOT_A_MASK", "the file is not a mask of this bundle"
    MASK_UNREADABLE = "MASK_UNREADABLE", "the mask cannot be read"
    LABEL_VALUES = "LABEL_VALUES", "a label holds values that are not structures of the task"
    GRIDS_DIFFER = "GRIDS_DIFFER", "a label or mask lies on another grid than its image"
    BUNDLE_NOT_FOUND = "BUNDLE_NOT_FOUND", "there is no such bundle"
    BUNDLE_UNUSABLE = "BUNDLE_UNUSABLE", "the bundle's files are not of the form that is needed"
    WEIGHTS_NOT_FOUND = "WEIGHTS_NOT_FOUND", "there is no such file of weights"
    WEIGHTS_HASH = "WEIGHTS_HASH", "the weights are not those that the bundle names"
    WEIGHTS_MISFIT = "WEIGHTS_MISFIT", "the weights do not fit the network"
    DATALIST = "DATALIST", "the list of images is not of the form that is needed"
    DATALIST_MISSING = "DATALIST_MISSING", "there is no datalist"
    DATALIST_INVALID = "DATALIST_INVALID", "the datalist is not of the form that `docs/train.md` shows"
    DATALIST_EMPTY = "DATALIST_EMPTY", "the section of the datalist is empty"
    DATALIST_SECTION = "DATALIST_SECTION", "the datalist has no such section"
    MANIFEST = "MANIFEST", "the list of a cohort's cases is not of the form that `docs/cohort.md` shows"
    CLUSTER = "CLUSTER", "no Dask scheduler answers, it went away, or its workers die as they start"
    PLAN = "PLAN", "the bundle's `configs/runs.json` is missing or not a plan of trainings"
    SCORES = "SCORES", "the evaluations are not of the same cases"
    OTHER_OPTIONS = "OTHER_OPTIONS", "the folder holds results of other options, which may not be compared"
    OUT_OF_RANGE = "OUT_OF_RANGE", "the image has no such slice or pixel"
    NO_LAYERS = "NO_LAYERS", "the network has no transformer layer to explain"
    LABEL_MISALIGNED = "LABEL_MISALIGNED", "[label server](annotate.md): a label lies on another grid than its image"
    LABEL_UNKNOWN = "LABEL_UNKNOWN", "label server: a label holds structures that the bundle does not know"
    NO_LABELS = "NO_LABELS", "label server: there is no label to learn from"
    TRAINING = "TRAINING", "label server, `benchmark peers`: a training failed"
    VERSIONS = "VERSIONS", "label server: there are no such weights"
    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND", "label server: there is no such image"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND", "label server: there is no such model"
    STRATEGY_NOT_FOUND = "STRATEGY_NOT_FOUND", "label server: there is no such strategy"
    NAME = "NAME", "label server: a name that cannot be part of a path"
    FORBIDDEN = "FORBIDDEN", "label server: a request that is not allowed"
    PORT = "PORT", "label server: the port cannot be used"
    LOGIN = "LOGIN", "a login is needed, or the password file cannot be used"
    PATH = "PATH", "label server: MONAI cannot take a path with these characters"
    OPTION = "OPTION", "an option's value is not allowed"
    CONFIG = "CONFIG", "[DICOM node](hospital.md): the configuration has a fault, at the key that is named"
    NODE = "NODE", "DICOM node: another node uses the folder, or a port cannot be had"
    NOT_TAKEN = "NOT_TAKEN", "DICOM node: an instance is damaged, not what its sender says, or over a limit"
    ATTEMPTS = "ATTEMPTS", "DICOM node: the program ended each time while the series was worked on"
    INCOMPLETE = "INCOMPLETE", "DICOM node: images of the series are no longer kept; send the whole series again"
    DEVICE = "DEVICE", "this machine has no such device"
    EXPORT_FORMAT = "EXPORT_FORMAT", "the ending names no format of export"
    MISSING_PACKAGE = "MISSING_PACKAGE", "a package is not installed"


def refusal_table() -> str:
    """The codes as a Markdown table, which ``docs/inputs.md`` holds."""
    rows = [f"| `{code}` | {code.text} |" for code in RefusalCode]
    return "\n".join(["| code | what was wrong |", "|---|---|", *rows])


class InputRefused(Exception):
    """An input that is not what the model was made for, or cannot be trusted.

    Args:
        code: why.
        message: what is wrong, where, and what to do; one line, without personal data.
    """

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return printable(f"error[{self.code}]: {self.message}")


def printable(text: str, keep: str = "") -> str:
    """Escapes what a terminal would not show but obey, as control characters in a file name.

    Args:
        text: to be shown.
        keep: characters that are left as they are.
    """
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii") for one in text
    )


def find_refusal(error: BaseException | None) -> InputRefused | None:
    """Finds the refusal at the root of an exception (MONAI wraps what its transforms and configs raise).

    Args:
        error: any exception.

    Returns:
        The first :class:`InputRefused` along the chain of causes, or ``None``.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InputRefused):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def report_refusals() -> None:
    """Makes an uncaught refusal end the program with its one line on stderr and exit code 2, without traceback.

    The bundles call it when they are initialised, so ``python -m monai.bundle run`` ends as the command line does.
    Exceptions that are caught, and uncaught ones that are not refusals, are as before.
    """
    previous = sys.excepthook
    if getattr(previous, "reports_refusals", False):
        return

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        refusal = find_refusal(error)
        if refusal is None:
            previous(kind, error, traceback)
            return
        sys.stderr.write(f"{refusal}\n")
        sys.stderr.flush()
        raise SystemExit(EXIT_REFUSED)  # from inside the hook: the interpreter exits with this code

    hook.reports_refusals = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def need_highdicom() -> None:
    """Refuses to go on where highdicom is not installed; imports nothing.

    Raises:
        InputRefused: ``MISSING_PACKAGE``.
    """
    if find_spec("highdicom") is None:
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE,
            "DICOM results need the package highdicom: pip install 'convformer_monai[dicom]'",
        )
