"""What NRRD and MetaImage headers say, read strictly before ITK sees them.

ITK fills in what a header leaves out (spacing 1, no rotation), takes any named space it does not know for LPS, follows
data files anywhere on the disk, and its MetaImage parser crashes the process on malformed numbers. So only headers of
known fields with plain values pass, and their voxels must be there in full.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.limits import check_spacing, check_voxels, inflated_size

__all__ = ["check_header", "check_picture_header"]

MAX_HEADER_BYTES = 2**16
MAX_NUMBER = 1e6  # mm; beyond it no place in a scanner is
AXES_TOLERANCE = 1e-4  # cosine between two axes; 0.03 mm over 300 mm
MIN_NUMBER = 1e-100  # but for 0; ITK's decompositions complain of numbers that are hardly any
BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), 8),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), 8),
    **{"float": 4, "double": 8},
    **{"met_char": 1, "met_uchar": 1, "met_short": 2, "met_ushort": 2, "met_int": 4, "met_uint": 4},
    **{"met_long_long": 8, "met_ulong_long": 8, "met_float": 4, "met_double": 8},
}
SPACES = {"lps", "ras", "las", "left-posterior-superior", "right-anterior-superior", "left-anterior-superior"}
AXES = {"domain", "space", "time", "???", "none"}
VECTOR = re.compile(r"\(([^()]*)\)")
NRRD_LINE = re.compile(r"([A-Za-z][A-Za-z ]*): (.*)")
NRRD_KEY_VALUE = re.compile(r"[^:=]+:=")
META_LINE = re.compile(r"([A-Za-z]+) *= *(.*)")
META_FIELDS = {  # ITK ignores them in any other case
    *("ObjectType", "ObjectSubType", "NDims", "DimSize", "ElementSpacing", "ElementSize", "ElementType"),
    *("ElementDataFile", "ElementNumberOfChannels", "ElementMin", "ElementMax", "HeaderSize", "Modality"),
    *("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData", "CompressedDataSize"),
    *("TransformMatrix", "Rotation", "Orientation", "Offset", "Position", "Origin", "CenterOfRotation"),
    *("AnatomicalOrientation", "Comment", "Name", "ID", "ParentID", "Color", "DistanceUnits"),
}


@dataclass(frozen=True)
class _Payload:
    """Where the voxels are.

    Attributes:
        file: the file itself, or the one beside it.
        offset: where they begin.
        size: their bytes once decompressed.
        compressed: whether they are a zlib or gzip stream.
    """

    file: Path
    offset: int
    size: int
    compressed: bool


def check_header(path: Path) -> tuple[str, ...]:
    """Checks all that can be known without decoding voxels into memory.

    Args:
        path: an NRRD or MetaImage file, by its name.

    Returns:
        Warnings.

    Raises:
        InputRefused: if it is not a volume or cine whose geometry can be trusted, is too large, or cut short.
    """
    with open(path, "rb") as file:
        head = file.read(MAX_HEADER_BYTES)
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        payload, warnings = _check_nrrd(head, path)
    else:
        payload, warnings = _check_metaimage(head, path), ()
    _check_payload(payload, path)
    return warnings


def check_picture_header(path: Path, size: Sequence[int]) -> None:
    """Checks an NRRD file that holds a picture, its pixels in the file itself, without decoding them into memory.

    Args:
        path: the file.
        size: columns and rows that it must have, as two axes or as one slice of a volume.

    Raises:
        InputRefused: if it is anything else; ``DIMENSIONS`` if it has another size.
    """
    with open(path, "rb") as file:
        head = file.read(MAX_HEADER_BYTES)
    fields, end = _nrrd_fields(head, path)
    if end is None or any(name in fields for name in ("data file", "datafile")):
        raise InputRefused(RefusalCode.DATA_FILE, f"{path} has its pixels in another file; write it as one .nrrd file")
    if fields.get("sizes", "").split() not in ([*map(str, size)], [*map(str, size), "1"]):
        raise InputRefused(
            RefusalCode.DIMENSIONS, f"{path} is not one picture of {' x '.join(map(str, size))} pixels, as its image is"
        )
    axes = len(fields["sizes"].split())
    if fields.get("dimension") != str(axes) or fields.get("type", "").lower() not in BYTES:
        raise _unreadable(path, "has malformed dimensions, or does not hold numbers")
    for name in ("space directions", "space origin"):
        for vector in VECTOR.findall(fields.get(name, "")):
            _numbers(vector.replace(",", " "), axes, name, path)
    if "spacings" in fields and min(_numbers(fields["spacings"], axes, "spacings", path)) <= 0:
        raise InputRefused(RefusalCode.AFFINE, f"{path} has negative spacings; correct the header")
    pixels = math.prod(size) * BYTES[fields["type"].lower()]
    _check_payload(_Payload(path, end, pixels, _is_compressed(fields, path)), path)


def _nrrd_fields(head: bytes, path: Path) -> tuple[dict[str, str], int | None]:
    """Returns the fields of an NRRD header, and where its voxels begin if they are in the same file.

    See https://teem.sourceforge.net/nrrd/format.html.
    """
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.start()] if end else head
    if not head.startswith(b"NRRD000") or (end is None and b"data file" not in text):
        raise _unreadable(path, "does not begin as NRRD files do")
    fields = _fields(text.splitlines()[1:], NRRD_LINE, path)
    if any(kind.lower() not in AXES for kind in fields.get("kinds", "").split()):
        raise InputRefused(
            RefusalCode.DATA_TYPE, f"{path} holds vectors or colours, not one grey value a voxel; split it"
        )
    _refuse_skips(fields, ("line skip", "lineskip", "byte skip", "byteskip"), path)
    return fields, end.end() if end else None


def _is_compressed(fields: Mapping[str, str], path: Path) -> bool:
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise _unreadable(path, "is neither raw nor gzip-encoded")
    return encoding != "raw"


def _check_nrrd(head: bytes, path: Path) -> tuple[_Payload, tuple[str, ...]]:
    fields, end = _nrrd_fields(head, path)
    detached = fields.get("data file", fields.get("datafile"))
    sizes = _sizes(fields.get("sizes", ""), fields.get("dimension", ""), fields.get("type", ""), path)
    compressed = _is_compressed(fields, path)
    warnings = _check_nrrd_space(fields, len(sizes), path)
    size = math.prod(sizes) * BYTES[fields["type"].lower()]
    return _Payload(_beside(path, detached), 0 if detached or end is None else end, size, compressed), warnings


def _check_nrrd_space(fields: Mapping[str, str], dimension: int, path: Path) -> tuple[str, ...]:
    """Checks that position and orientation in the patient are stated, in mm."""
    warnings: tuple[str, ...] = ()
    space = fields.get("space", "").lower()
    if dimension == 4 and not space and fields.get("space dimension") == "4":
        warnings = ("it names no space; taken as LPS, as ITK writes a cine",)
    elif space not in SPACES and not (dimension == 4 and space in ("lpst", "left-posterior-superior-time")):
        raise InputRefused(
            RefusalCode.NO_GEOMETRY,
            f"{path} does not say how it lies in the patient (space LPS, RAS or LAS); write it again",
        )
    directions = VECTOR.findall(fields.get("space directions", ""))
    if len(directions) != dimension or "none" in fields["space directions"].lower():
        raise InputRefused(
            RefusalCode.NO_GEOMETRY, f"{path} has no space directions for its {dimension} axes; write it again"
        )
    origin = VECTOR.findall(fields.get("space origin", ""))
    if len(origin) != 1:
        raise InputRefused(RefusalCode.NO_GEOMETRY, f"{path} has no space origin; write it again with its position")
    axes = [_numbers(vector.replace(",", " "), dimension, "space directions", path) for vector in directions]
    _numbers(origin[0].replace(",", " "), dimension, "space origin", path)
    _check_axes(axes, [math.hypot(*axis) for axis in axes], path)
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", "")))
    if units - {"mm", "", "s", "ms"}:
        raise InputRefused(RefusalCode.UNITS, f"{path} is not in millimetres; convert it to mm")
    return warnings


def _check_metaimage(head: bytes, path: Path) -> _Payload:
    """See https://itk.org/Wiki/ITK/MetaIO/Documentation."""
    last = re.search(rb"(?:^|\n)ElementDataFile *= *([^\r\n]*)\r?\n?", head)
    if last is None:
        raise _unreadable(path, "has no MetaImage header that ends in ElementDataFile")
    fields = _fields(head[: last.end()].splitlines(), META_LINE, path, META_FIELDS)
    if fields.get("objecttype", "").lower() != "image":
        raise _unreadable(path, "is not a plain MetaImage")
    sizes = _sizes(fields.get("dimsize", ""), fields.get("ndims", ""), fields.get("elementtype", ""), path)
    if fields.get("elementnumberofchannels", "1") != "1":
        raise InputRefused(
            RefusalCode.DATA_TYPE, f"{path} holds vectors or colours, not one grey value a voxel; split it"
        )
    matrix = [fields[name] for name in ("transformmatrix", "rotation", "orientation") if name in fields]
    origin = [fields[name] for name in ("offset", "position", "origin") if name in fields]
    if "elementspacing" not in fields or len(matrix) != 1 or len(origin) != 1:
        raise InputRefused(
            RefusalCode.NO_GEOMETRY,
            f"{path} does not tell its ElementSpacing, TransformMatrix and Offset, each once; write it again",
        )
    n = len(sizes)
    optional = {"elementsize": n, "centerofrotation": n, "color": 4, "elementmin": 1, "elementmax": 1}
    optional |= {"id": 1, "parentid": 1}
    axes = np.reshape(_numbers(matrix[0], n * n, "TransformMatrix", path), (n, n))
    _numbers(origin[0], n, "Offset", path)
    _check_axes(axes, _numbers(fields["elementspacing"], n, "ElementSpacing", path), path)
    if not np.allclose(axes @ axes.T, np.eye(n), atol=AXES_TOLERANCE):  # ITK would straighten them without a word
        raise InputRefused(
            RefusalCode.AFFINE, f"{path} has axes that are not at right angles; convert it to .nrrd or .nii.gz"
        )
    for name in optional.keys() & fields.keys():
        _numbers(fields[name], optional[name], name, path)
    if fields.get("distanceunits", "mm") not in ("mm", "?", "unknown"):
        raise InputRefused(RefusalCode.UNITS, f"{path} is not in millimetres; convert it to mm")
    return _metaimage_payload(fields, sizes, last.end(), last.group(1).decode("utf-8", "replace").strip(), path)


def _metaimage_payload(
    fields: Mapping[str, str], sizes: tuple[int, ...], end: int, data_file: str, path: Path
) -> _Payload:
    _refuse_skips(fields, ("headersize",), path)
    flags = [fields.get(name, "false") for name in ("compresseddata", "binarydatabyteordermsb", "elementbyteordermsb")]
    if fields.get("binarydata", "").lower() != "true" or not {flag.lower() for flag in flags} <= {"true", "false"}:
        raise _unreadable(path, "does not say plainly how its voxels are stored")
    compressed = flags[0].lower() == "true"
    detached = None if data_file in ("LOCAL", "Local", "local") else data_file
    payload = _Payload(
        _beside(path, detached),
        0 if detached else end,
        math.prod(sizes) * BYTES[fields["elementtype"].lower()],
        compressed,
    )
    if compressed:  # ITK decompresses no more than it says, and leaves the other voxels as they come
        available = payload.file.stat().st_size - payload.offset
        stored = fields.get("compresseddatasize", "")
        if not re.fullmatch(r"\d{1,12}", stored) or int(stored) != available:
            raise _unreadable(path, "does not hold as many compressed bytes as it says")
    return payload


def _fields(lines: list[bytes], pattern: re.Pattern[str], path: Path, known: Set[str] | None = None) -> dict[str, str]:
    """Returns the fields by their names in lower case; each may be there once.

    Args:
        lines: of the header.
        pattern: of a line, with name and value as groups.
        path: the file.
        known: the names that may be there; ``None`` is NRRD, where any may, and comments and key/value pairs besides.
    """
    fields: dict[str, str] = {}
    for line in lines:
        text = line.decode("utf-8", "replace").rstrip()
        if known is None and (text.startswith("#") or NRRD_KEY_VALUE.match(text)):
            continue
        match = pattern.fullmatch(text)
        if match is None or match[1].lower() in fields or (known is not None and match[1] not in known):
            raise _unreadable(path, "has a malformed header")
        fields[match[1].lower()] = match[2].strip()
    return fields


def _sizes(text: str, dimension: str, kind: str, path: Path) -> tuple[int, ...]:
    """Checks dimensions, type and size."""
    if not re.fullmatch(r"\d{1,2}", dimension) or not all(re.fullmatch(r"\d{1,18}", size) for size in text.split()):
        raise _unreadable(path, "has malformed dimensions")
    sizes = tuple(map(int, text.split()))
    if len(sizes) != int(dimension) or len(sizes) not in (3, 4):
        raise InputRefused(
            RefusalCode.DIMENSIONS, f"{path} has shape {sizes}; a volume (3-D) or a cine (4-D) is needed"
        )
    check_voxels(sizes, path)
    if kind.lower() not in BYTES:
        raise InputRefused(RefusalCode.DATA_TYPE, f"{path} does not hold whole or floating-point numbers; convert it")
    return sizes


def _numbers(text: str, count: int, what: str, path: Path) -> list[float]:
    """Returns the numbers of a field if they are as many as needed, finite and not beyond all measure."""
    try:
        values = [float(value) for value in text.split()]
    except ValueError:
        values = []
    if len(values) != count or not all(value == 0 or MIN_NUMBER <= abs(value) <= MAX_NUMBER for value in values):
        raise InputRefused(
            RefusalCode.AFFINE, f"{path} has a {what} field that is not {count} plausible numbers; correct it"
        )
    return values


def _check_axes(axes: ArrayLike, spacing: Sequence[float], path: Path) -> None:
    """Checks spacing and directions before ITK does: it takes a negative spacing for a flip."""
    check_spacing(np.asarray(spacing[:3]), path)
    directions = np.asarray(axes, dtype=np.float64)
    if np.any(directions[:3, 3:]) or np.any(directions[3:, :3]):
        raise InputRefused(RefusalCode.AFFINE, f"{path} mixes time with space in its directions; correct the header")
    if abs(np.linalg.det(directions)) <= 1e-3 * np.linalg.norm(directions, axis=1).prod():
        raise InputRefused(RefusalCode.AFFINE, f"{path} has axes that lie in one plane; correct the header")


def _refuse_skips(fields: Mapping[str, str], names: tuple[str, ...], path: Path) -> None:
    if any(fields.get(name, "0") != "0" for name in names):
        raise _unreadable(path, "skips bytes before its voxels")


def _beside(path: Path, name: str | None) -> Path:
    """Returns the file of the voxels: itself or one in the same folder, not what a link there leads to."""
    if name is None:
        return path
    beside = path.parent / name
    if not name or name.upper().startswith("LIST") or set(name) & set('/\\%:*?"<>|') or name in (".", ".."):
        raise InputRefused(
            RefusalCode.DATA_FILE,
            f"{path} names a data file that is not a single file in its own folder; put it beside the header",
        )
    if not beside.is_file() or beside.resolve().parent != path.parent.resolve():
        raise InputRefused(
            RefusalCode.DATA_FILE, f"{path} names a data file that is not in its folder; put it beside the header"
        )
    return beside


def _check_payload(payload: _Payload, path: Path) -> None:
    """Checks that the voxels are there in full, and no more than a little besides."""
    with open(payload.file, "rb") as file:
        file.seek(payload.offset)
        if payload.compressed:
            found = inflated_size(file, payload.size)
        else:
            found = payload.file.stat().st_size - payload.offset
    if found != payload.size:
        raise _unreadable(path, f"holds {'fewer' if found < payload.size else 'more'} bytes of voxels than it says")


def _unreadable(path: Path, what: str) -> InputRefused:
    return InputRefused(RefusalCode.ITK_UNREADABLE, f"{path} {what}; write it again as .nrrd, .mha or .nii.gz")
