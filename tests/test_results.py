"""The tables in ``docs/results`` follow from the Dice of each case that is kept there, and the page shows them."""

import csv
import json
import math
from collections import defaultdict
from pathlib import Path

import pytest

from convformer_monai.evaluation.comparison import CaseScores, compare, holm
from convformer_monai.experiments.table import LABELS

DOCS = Path(__file__).parents[1] / "docs"
FOLDERS = sorted(path.parent for path in DOCS.glob("results/*/table.csv"))
REFERENCES = {"block": "convformer", "alpha": "0.4", "network": "convformer"}  # of rows that share the other labels


def rows_of(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def label_of(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in LABELS if name in row)


def reference_of(row: dict[str, str]) -> tuple[str, ...]:
    changed = next(name for name in REFERENCES if name in row)
    return label_of({**row, changed: REFERENCES[changed]})


def scores_of(cases: list[dict[str, str]], seeds: set[str]) -> CaseScores:
    dice: dict[str, list[float]] = defaultdict(list)
    for row in cases:
        if row["seed"] in seeds:
            dice[row["case"]].append(float(row["dice"]))
    return CaseScores({case: tuple(values) for case, values in dice.items()}, {r["case"]: r["patient"] for r in cases})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_table_follows_from_the_cases(folder: Path) -> None:
    table, cases = rows_of(folder / "table.csv"), defaultdict(list)
    for row in rows_of(folder / "cases.csv"):
        cases[label_of(row)].append(row)
    seeds = {label: {row["seed"] for row in of_label} for label, of_label in cases.items()}
    assert [label_of(row) for row in table] == list(cases)
    p: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for row in table:
        label, reference = label_of(row), reference_of(row)
        assert float(row["dice"]) == pytest.approx(scores_of(cases[label], seeds[label]).statistics().mean, abs=1e-5)
        assert int(row["seeds"]) == len(seeds[label])
        if label == reference or reference not in cases:
            assert row["difference"] == ""
            continue
        both = seeds[label] & seeds[reference]
        found = compare(scores_of(cases[label], both), scores_of(cases[reference], both))
        assert float(row["difference"]) == pytest.approx(found.mean, abs=1e-5)
        assert float(row["difference_ci95_low"]) == pytest.approx(found.ci95[0], abs=1e-4)
        assert int(row["seeds_compared"]) == len(both)
        p[reference][" ".join(label)] = found.p
    for row in table:
        if row["p"]:
            adjusted = holm(p[reference_of(row)])[" ".join(label_of(row))]
            assert math.isclose(float(row["p"]), adjusted, rel_tol=0.01, abs_tol=1e-6)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_training_has_its_record(folder: Path) -> None:
    trainings = rows_of(folder / "trainings.csv")
    evaluated = {(*label_of(row), row["seed"]) for row in rows_of(folder / "cases.csv")}
    assert {(*label_of(row), row["seed"]) for row in trainings} == evaluated
    hashes = [row["weights_sha256"] for row in trainings]
    assert all(len(one) == 64 for one in hashes) and len(set(hashes)) == len(hashes)
    steps = {(label_of(row), row["seed"]): int(row["steps"]) for row in trainings}
    assert len(set(steps.values())) == 1, "all had the same budget"
    assert json.loads((folder / "options.json").read_text())["options"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_page_shows_the_table(folder: Path) -> None:
    page = (DOCS / "results.md").read_text()
    section = page[page.index(f"(results/{folder.name}/") :]
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    for row in rows_of(folder / "table.csv"):
        expected = {*label_of(row), interval(row, "dice", ""), interval(row, "difference", "+")}
        assert any(expected <= {*cells, ""} for cells in shown), expected


def interval(row: dict[str, str], name: str, sign: str) -> str:
    if not row[name]:
        return ""
    low, high = (float(row[f"{name}_ci95_{end}"]) for end in ("low", "high"))
    return f"{float(row[name]):{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
