"""Reports of whole heads and slices: a bundle's network, or that of each patient's fold; and what thresholds do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from torch import Tensor, nn

from convformer_monai.bundle import Bundle
from convformer_monai.datalist import read_lists
from convformer_monai.evaluation.head_folds import ALL_FOLDS, fold_of_patients, fold_weights
from convformer_monai.evaluation.head_overlays import draw_scans
from convformer_monai.evaluation.head_scans import SCAN_LISTS, Answer, HeadScore, Segment, SliceScore, scan_scores
from convformer_monai.evaluation.head_tables import tables_of, to_markdown
from convformer_monai.evaluation.report import origin_of, output_folder
from convformer_monai.measurements.values import csv_of
from convformer_monai.outputs.atomic import write_text

__all__ = ["POINTS", "report_peaks", "report_scans", "segment_with", "sources_of"]

POINTS = ((0.5, 0.5), (0.5, 0.7), (0.5, 0.8), (0.5, 0.9), (0.5, 0.95), (0.4, 0.7), (0.4, 0.8), (0.3, 0.7), (0.3, 0.8))


def sources_of(bundle: str | Path) -> dict[str, dict[str, Any]]:
    """What a bundle's ``train.json`` knows of published pictures; see :class:`convformer_monai.training.HeadCTPool`."""
    sources: dict[str, dict[str, Any]] = Bundle(bundle).read("train")["sources"]
    return sources


def report_scans(
    bundle: str | Path,
    dataset_dir: Path,
    output_dir: Path,
    weights: Path | None = None,
    runs: Path | None = None,
    overlays: int = 0,
    network: Mapping[str, Any] | None = None,
    folds: Sequence[int] = ALL_FOLDS,
) -> str:
    """Segments and scores heads and slices; writes ``heads.csv``, ``slices.csv``, ``scans.json`` and ``scans.md``.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        dataset_dir: see :func:`convformer_monai.evaluation.head_scans.scan_scores`.
        output_dir: folder for the files; made if missing.
        weights: file of other weights than the bundle's.
        runs: folder of ``fold0/best.pt`` to ``fold4/best.pt``: each patient is then segmented by the network that has
            not seen the patient.
        overlays: pictures of each kind that :func:`convformer_monai.evaluation.head_overlays.draw_scans` draws.
        network: values by id of another network, see :class:`convformer_monai.segmenter.Segmenter`.
        folds: of ``runs``; patients of other folds are left out.

    Returns:
        The tables, for people.

    Raises:
        InputRefused: if the bundle, the data or the weights cannot be used.
    """
    folder, opened = output_folder(output_dir), Bundle(bundle)
    segment, sources = segment_with(bundle, dataset_dir, weights, runs, network, folds=folds), sources_of(bundle)
    fold_of = _first if runs is None else fold_of_patients(bundle, dataset_dir)
    heads, slices = scan_scores(dataset_dir, segment, sources, counts=lambda patient: fold_of(patient) in folds)
    for name, scores in (("heads.csv", heads), ("slices.csv", slices)):
        write_text(folder / name, csv_of([asdict(score) for score in scores]), overwrite=True)
    tables = tables_of(heads, slices)
    lists = ", ".join(name for name in SCAN_LISTS if name in read_lists(dataset_dir))
    files = [weights or opened.weights] if runs is None else [fold_weights(runs, fold) for fold in folds]
    content = {**origin_of(opened.name, opened.version, files, dataset_dir, lists), "results": tables}
    write_text(folder / "scans.json", json.dumps(content, indent=2, default=str) + "\n", overwrite=True)
    text = "\n\n".join(f"{title}\n\n{to_markdown(rows)}" for title, rows in tables.items())
    write_text(folder / "scans.md", text + "\n", overwrite=True)
    if overlays:
        pictures = folder / "overlays"
        draw_scans(dataset_dir, segment, sources, (heads, slices), opened.labels, pictures, overlays)
    return text


def report_peaks(
    bundle: str | Path,
    dataset_dir: Path,
    output_dir: Path,
    runs: Path,
    points: Sequence[tuple[float, float]] = POINTS,
    network: Mapping[str, Any] | None = None,
) -> str:
    """Scores heads and expert slices at several thresholds and peaks, by the networks of the folds.

    Writes ``peaks.csv``; see :class:`convformer_monai.transforms.KeepConfidentPartsd` for the two numbers. The network
    runs once for each image.

    Args:
        bundle: see :func:`report_scans`.
        dataset_dir: see there.
        output_dir: see there.
        runs: see there.
        points: pairs of threshold and peak.
        network: see :func:`report_scans`.

    Returns:
        The table, for people.

    Raises:
        InputRefused: see :func:`report_scans`.
    """
    folder, sources, memory = output_folder(output_dir), sources_of(bundle), _Memory()
    rows = []
    for threshold, peak in points:
        point = {"threshold": threshold, "peak": peak}
        overrides = {**(network or {}), **point}
        segment = segment_with(bundle, dataset_dir, runs=runs, overrides=overrides, memory=memory)
        rows.append({**point, **_point(*scan_scores(dataset_dir, segment, sources, ("heads", "expert")))})
    write_text(folder / "peaks.csv", csv_of(rows), overwrite=True)
    return to_markdown(rows)


def _point(heads: Sequence[HeadScore], slices: Sequence[SliceScore]) -> dict[str, Any]:
    """The figures from which thresholds are chosen."""
    row: dict[str, Any] = {}
    for name, seen_in in (("alone", "expert"), ("in heads", "heads")):
        chosen = [one for one in slices if one.seen_in == seen_in and one.lesions]
        if chosen:
            row |= {f"Dice {name}": round(float(np.mean([one.dice for one in chosen])), 3)}
            row |= {f"nothing found {name}": f"{sum(not one.hit for one in chosen)} of {len(chosen)}"}
    free = [one for one in slices if one.seen_in == "expert" and not one.lesions]
    bleeding, others = [head for head in heads if head.blood], [head for head in heads if not head.blood]
    row |= {"blood-free slices with a finding": f"{sum(one.findings > 0 for one in free)} of {len(free)}"}
    row |= {"heads found": f"{sum(head.found for head in bleeding)} of {len(bleeding)}"}
    row |= {"blood-free heads with a finding": f"{sum(head.ml > 0 for head in others)} of {len(others)}"}
    return row | {"mL in them": round(sum(head.ml for head in others), 2)}


class _Memory:
    """What networks answered, by network and input."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int, bytes], Tensor] = {}

    def of(self, name: str, network: nn.Module) -> nn.Module:
        """A network that answers from memory where it can."""
        answers = self.answers

        class Remembered(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                values = x.detach().cpu().contiguous().float().numpy()
                key = (name, x.shape[0], blake2b(values.tobytes(), digest_size=16).digest())
                if key not in answers:
                    result = network(x)
                    answers[key] = (result[0] if isinstance(result, list | tuple) else result).half()
                return answers[key].float()

        return Remembered().eval()


def segment_with(
    bundle: str | Path,
    dataset_dir: Path,
    weights: Path | None = None,
    runs: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    memory: _Memory | None = None,
    folds: Sequence[int] = ALL_FOLDS,
) -> Segment:
    """What segments with a bundle's network, or with that of the patient's fold; see :func:`report_scans`.

    Args:
        bundle: see there.
        dataset_dir: see there.
        weights: see there.
        runs: see there.
        overrides: see :class:`convformer_monai.segmenter.Segmenter`.
        memory: of the networks' answers.
        folds: of ``runs``, whose patients can be segmented.
    """
    from convformer_monai.readers.memory import series_from
    from convformer_monai.segmenter import Segmenter

    files = {0: weights} if runs is None else {fold: fold_weights(runs, fold) for fold in folds}
    segmenters = {fold: Segmenter(bundle, weights=file, overrides=overrides) for fold, file in files.items()}
    if memory is not None:
        for fold, segmenter in segmenters.items():
            segmenter.network = memory.of(str(files[fold]), segmenter.network)
    fold_of = _first if runs is None else fold_of_patients(bundle, dataset_dir)

    def segment(image: Path | MetaTensor, patient: str) -> Answer:
        segmenter = segmenters[fold_of(patient)]
        result = segmenter.run(segmenter.read(image) if isinstance(image, Path) else series_from(image))
        flags = tuple(flag.code for flag in segmenter.measure(result).flags)
        return Answer(result.labels.numpy()[0] > 0, flags)

    return segment


def _first(_patient: str) -> int:
    """The only network segments everybody."""
    return 0
