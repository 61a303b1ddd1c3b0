"""The networks of a worker process."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tiny_cohort import job_for

from convformer_monai.cohort import model
from convformer_monai.cohort.manifest import Entry
from convformer_monai.cohort.worker import do_case
from convformer_monai.segmenter import _Attempt


def test_a_bundle_is_loaded_once(bundle: Path, studies: Path, out: Path) -> None:
    job = job_for(bundle, out)
    first = model.loaded(job.bundles[""], job)
    for name in ("s0", "s1"):
        do_case(Entry(name, str(studies / f"{name}.nii.gz")), job)
    assert model.loaded(job.bundles[""], job_for(bundle, out, "r2")) is first and len(model._kept) == 1
    assert model.loaded(job.bundles[""], job_for(bundle, out, flips=True)) is not first


def test_one_case_is_read_while_the_network_runs_the_other(
    bundle: Path, studies: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two threads, as on a GPU: the second case is read, but does not enter the network before the first left."""
    job = job_for(bundle, out)
    segmenter = model.loaded(job.bundles[""], job)
    inside, reads, runs = threading.Event(), [], []
    both_read = threading.Event()
    read, scores = segmenter.read, _Attempt._scores

    def noted_read(*arguments, **options):  # type: ignore[no-untyped-def]
        series = read(*arguments, **options)
        reads.append(1)
        if len(reads) == 2:
            both_read.set()
        return series

    def slow_scores(self, *arguments):  # type: ignore[no-untyped-def]
        assert not inside.is_set(), "two at once"
        inside.set()
        assert both_read.wait(30), "the other case is not read meanwhile"
        runs.append(1)
        inside.clear()
        return scores(self, *arguments)

    monkeypatch.setattr(segmenter, "read", noted_read)
    monkeypatch.setattr(_Attempt, "_scores", slow_scores)
    outcomes = []
    entries = [Entry(name, str(studies / f"{name}.nii.gz")) for name in ("s0", "s1")]
    threads = [threading.Thread(target=lambda entry=entry: outcomes.append(do_case(entry, job))) for entry in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [one.status.state for one in outcomes] == ["done", "done"] and len(runs) == 2
