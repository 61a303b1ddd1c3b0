"""Hemorrhage in whole heads by this bundle, and by BLAST-CT: the same heads, the same scores.

BLAST-CT (Monteiro et al., "Multiclass semantic segmentation and quantification of traumatic brain injury lesions on
head CT using deep learning", Lancet Digital Health 2020; 2:e314-e322; Apache-2.0) is a 3-D DeepMedic trained on head
trauma. Its code and weights are the user's to fetch: commit 96666a1f of github.com/biomedia-mira/blast-ct, of April
2020, holds both. Here its network runs as its own inference does (1 mm, -15 to 100 HU, tiles with the context that its
layers need), in bfloat16 where the processor has it, which takes a quarter of the time.
"""

from __future__ import annotations

import logging
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from monai.utils import convert_to_tensor
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from convformer_monai.benchmarks.files import file_name
from convformer_monai.datalist import read_cases, read_lists
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.evaluation.agreement import bland_altman, draw_agreement
from convformer_monai.evaluation.head_report import segment_with, sources_of
from convformer_monai.evaluation.head_scans import HEADS, Answer, HeadScore, Segment, SliceScore, scan_scores
from convformer_monai.evaluation.head_tables import tables_of, to_markdown
from convformer_monai.evaluation.report import output_folder
from convformer_monai.inferers import has_fast_bf16
from convformer_monai.measurements.values import csv_of
from convformer_monai.outputs.atomic import write_atomically, write_text
from convformer_monai.readers.file_stamp import file_stamp

__all__ = ["BlastCt", "Timed", "run"]

logger = logging.getLogger(__name__)

WINDOW = (-15.0, 100.0)
OUTSIDE_HU = -200.0  # of the head
TILE = 60  # voxels a side of what one pass gives
LEAST_HEAD = 0.02  # share of a tile
BLOOD = (1, 2, 4)  # intraparenchymal, extra-axial, intraventricular; 3 is edema
CLASSES = 5
REPEATED = 9  # slices that a single one is made


class BlastCt:
    """BLAST-CT's networks, averaged.

    Args:
        repository: folder of its repository.
        models: numbers of the networks, of 1 to 12.

    Raises:
        InputRefused: if the code or a network is missing.
    """

    def __init__(self, repository: Path, models: Sequence[int] = (1,)) -> None:
        self.networks: list[Any] = []
        deep_medic = _deep_medic(repository)
        for number in models:
            file = repository / "blast_ct" / "data" / "saved_models" / f"model_{number}.pt"
            if not file.is_file():
                raise InputRefused(
                    RefusalCode.FILE_NOT_FOUND, f"{file} does not exist: see --help for where it comes from"
                )
            network = deep_medic(1, CLASSES)
            network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
            self.networks.append(network.eval())
        size = self.networks[0].calculate_input_size((TILE,) * 3)
        self.context = (size[0] - TILE) // 2
        self.seen = int(size[0])

    @torch.inference_mode()
    def probabilities(self, image: MetaTensor) -> Tensor:
        """Of the five classes (5, X, Y, Z) for an image (1, X, Y, Z) in Hounsfield units, on its grid."""
        upright: Any = Orientation(axcodes="SPL")(image)  # (1, z, y, x), as BLAST-CT reads its files
        spacing = np.linalg.norm(np.asarray(upright.affine)[:3, :3], axis=0)
        values = upright.as_tensor().float()[None]
        size = [max(1, round(count * mm)) for count, mm in zip(values.shape[2:], spacing, strict=True)]
        at_1_mm = interpolate(values, size=size, mode="trilinear", align_corners=False)[0, 0]
        found = self._tiles(at_1_mm)
        back = interpolate(found[None], size=values.shape[2:], mode="trilinear", align_corners=False)[0]
        home = Orientation(axcodes="".join(_codes(image)))(MetaTensor(back, affine=upright.affine))
        return convert_to_tensor(home, track_meta=False)  # type: ignore[no-any-return]

    def _tiles(self, volume: Tensor) -> Tensor:
        """Probabilities (5, *size) of a volume at 1 mm; tiles without head are background."""
        low, high = WINDOW
        scaled = (volume.clamp(low, high) - low) * (2 / (high - low)) - 1
        head = volume > OUTSIDE_HU
        counts = [-(-side // TILE) for side in volume.shape]
        beyond = [
            (self.context, count * TILE - side + self.context) for count, side in zip(counts, volume.shape, strict=True)
        ]
        padded = torch.nn.functional.pad(scaled, [size for pair in reversed(beyond) for size in pair], value=-1.0)
        result = torch.zeros(CLASSES, *(count * TILE for count in counts))
        result[0] = 1
        for place in np.ndindex(*counts):
            start = [TILE * number for number in place]
            tile = tuple(slice(at, at + TILE) for at in start)
            if head[tile].float().mean() < LEAST_HEAD:
                continue
            seen = padded[tuple(slice(at, at + self.seen) for at in start)][None, None]
            with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16(torch.device("cpu"))):
                parts = [network(seen)[0][0].float().softmax(0) for network in self.networks]
            result[(slice(None), *tile)] = torch.stack(parts).mean(0)
        return result[:, : volume.shape[0], : volume.shape[1], : volume.shape[2]]

    def __call__(self, image: Path | MetaTensor, _patient: str) -> Answer:
        """The mask of blood. A single slice is repeated, since the network needs depth."""
        if isinstance(image, Path):
            file = Nifti1Image.from_filename(image)
            image = MetaTensor(torch.from_numpy(np.asarray(file.dataobj, dtype=np.float32))[None], affine=file.affine)
        single = image.shape[3] == 1
        if single:
            image = MetaTensor(image.as_tensor().expand(-1, -1, -1, REPEATED), affine=image.affine)
        found = torch.isin(self.probabilities(image).argmax(0), torch.tensor(BLOOD)).numpy()
        return Answer(found[..., REPEATED // 2 : REPEATED // 2 + 1] if single else found)


def _codes(image: MetaTensor) -> tuple[str, ...]:
    from nibabel.orientations import aff2axcodes

    codes: tuple[str, ...] = aff2axcodes(np.asarray(image.affine))
    return codes


def _deep_medic(repository: Path) -> Callable[[int, int], nn.Module]:
    """BLAST-CT's network class, without what its package imports besides."""
    folder = repository / "blast_ct"
    if not (folder / "models" / "deepmedic.py").is_file():
        raise InputRefused(
            RefusalCode.FILE_NOT_FOUND, f"{repository} holds no blast_ct/models/deepmedic.py; see --help"
        )
    package = types.ModuleType("blast_ct")
    package.__path__ = [str(folder)]
    sys.modules["blast_ct"] = package
    from importlib import import_module

    network: Callable[[int, int], nn.Module] = import_module("blast_ct.models.deepmedic").DeepMedic
    return network


class Timed:
    """Notes the seconds that whole heads take, and can keep their masks.

    Args:
        segment: what is timed.
        kept: for the image of a head the file, ``.npz``, that keeps its mask and seconds; while the image is the same
            file, they are not made again.
    """

    def __init__(self, segment: Segment, kept: Mapping[Path, Path] | None = None) -> None:
        self.segment, self.kept = segment, kept or {}
        self.seconds: list[float] = []

    def __call__(self, image: Path | MetaTensor, patient: str) -> Answer:
        """The answer for an image."""
        if not isinstance(image, Path):
            return self.segment(image, patient)
        kept, stamp = self.kept.get(image), file_stamp(image) or ""
        if kept is not None and kept.is_file():
            with np.load(kept) as content:
                if "stamp" in content and str(content["stamp"]) == stamp:
                    self.seconds.append(float(content["seconds"]))
                    return Answer(content["mask"])
        started = time.perf_counter()
        answer = self.segment(image, patient)
        seconds = time.perf_counter() - started
        self.seconds.append(seconds)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(
                kept,
                lambda file: np.savez_compressed(file, mask=answer.mask, seconds=seconds, stamp=stamp),
                lambda file: _holds(file, answer.mask),
                overwrite=True,
            )
        return answer


def _holds(file: Path, mask: NDArray[np.bool_]) -> bool:
    with np.load(file) as content:
        return np.array_equal(content["mask"], mask)


def run(
    repository: Path,
    dataset_dir: Path,
    output_dir: Path,
    bundle: str = "hemorrhage",
    models: Sequence[int] = (1,),
    weights: Path | None = None,
    runs: Path | None = None,
    slices_alone: bool = True,
) -> str:
    """Segments heads and slices by both; writes ``blast_ct.md``, ``.csv`` and, with matplotlib, ``.png``.

    The table has the mL of each head, the picture how far they agree (Bland and Altman).

    BLAST-CT's masks of heads are kept in ``masks_<models>`` by the head's id; a second run, with other weights of ours,
    takes those of heads whose files are the same.

    Args:
        repository: folder of BLAST-CT's repository.
        dataset_dir: see :func:`convformer_monai.evaluation.head_scans.scan_scores`.
        output_dir: folder for the files; made if missing.
        bundle: ours.
        models: numbers of BLAST-CT's networks, averaged.
        weights: as for :func:`convformer_monai.evaluation.head_report.report_scans`.
        runs: likewise.
        slices_alone: score the expert slices without their heads, too; BLAST-CT takes ten seconds for each.

    Returns:
        The tables, for people.

    Raises:
        InputRefused: if a file is missing or cannot be used.
    """
    folder = output_folder(output_dir)
    numbers = "_".join(map(str, models))
    heads = read_cases(dataset_dir, HEADS, without_labels=True) if HEADS in read_lists(dataset_dir) else []
    masks = {Path(case["image"]): folder / f"masks_{numbers}" / f"{file_name(case['id'])}.npz" for case in heads}
    peer = Timed(BlastCt(repository, models), masks)
    ours = Timed(segment_with(bundle, dataset_dir, weights, runs))
    names = (f"BLAST-CT, {len(models)} network{'s' * (len(models) > 1)}", "ours")
    lists = ("heads", "expert") if slices_alone else ("heads",)
    scores = {}
    for name, segment in zip(names, (peer, ours), strict=True):
        scores[name] = scan_scores(dataset_dir, segment, sources_of(bundle), lists)
    volumes = [np.array([head.ml for head in heads]) for heads, _ in scores.values()]
    seconds = {name: segment.seconds for name, segment in zip(names, (peer, ours), strict=True)}
    text = _text(scores, seconds, volumes)
    write_text(folder / "blast_ct.md", text + "\n", overwrite=True)
    rows = [
        {
            "head": pair[0].case,
            "blood": pair[0].blood,
            **{name: round(head.ml, 3) for name, head in zip(names, pair, strict=True)},
        }
        for pair in zip(*(heads for heads, _ in scores.values()), strict=True)
    ]
    write_text(folder / "blast_ct.csv", csv_of(rows), overwrite=True)
    if len(volumes[0]) > 1:
        draw_agreement(volumes[0], volumes[1], ("BLAST-CT", "ours"), "mL", folder / "blast_ct.png")
    return text


def _text(
    scores: dict[str, tuple[list[HeadScore], list[SliceScore]]],
    seconds: dict[str, list[float]],
    volumes: Sequence[NDArray[np.float64]],
) -> str:
    merged: dict[str, list[dict[str, Any]]] = {}
    for name, (heads, slices) in scores.items():
        for title, rows in tables_of(heads, slices).items():
            merged.setdefault(title, []).extend({"by": name, **row} for row in rows)
    lines = [f"{title}\n\n{to_markdown(rows)}" for title, rows in merged.items()]
    lines += [
        f"{name}: {np.median(times):.1f} s a head (median of {len(times)})" for name, times in seconds.items() if times
    ]
    if len(volumes[0]) > 1:
        mean, low, high = bland_altman(*volumes)
        lines.append(f"mL of a head, ours minus BLAST-CT: {mean:.1f}, 95% limits of agreement {low:.1f} to {high:.1f}")
    return "\n\n".join(lines)
