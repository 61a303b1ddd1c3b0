"""What is to be done of a cohort: which cases were done before, by the same bundle, weights and options."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from convformer_monai import __version__
from convformer_monai.bundle import Bundle, file_sha256
from convformer_monai.cohort.manifest import Entry, refuse_problems
from convformer_monai.cohort.status import BAD, DONE, FAILED, QUARANTINED, REFUSED, RUNNING, TODO, Status, read_status
from convformer_monai.cohort.storage import Folder, Place, fingerprint, is_url, local_path
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.case import check_name
from convformer_monai.outputs.made_by import made_by
from convformer_monai.outputs.writer import Options

__all__ = [
    "REPORT",
    "STOPS_IN_ALL",
    "BundleOf",
    "Job",
    "Plan",
    "beside",
    "describe_bundle",
    "known",
    "make_plan",
    "open_bundles",
    "standing",
    "stops_of",
]

REPORT = "_report.json"
STOPS_ALONE, STOPS_IN_ALL = 2, 4  # runs that ended with a case: before it is done alone, and before it is given up
CHECKS_AT_A_TIME = 16  # each waits for a file system
# Refusals that the machine or the output folder gives cause to, not the image.
OF_THE_MACHINE = frozenset(
    str(code)
    for code in (
        RefusalCode.EXISTS,
        RefusalCode.CANNOT_WRITE,
        RefusalCode.CANNOT_READ,
        RefusalCode.OUT_OF_MEMORY,
        RefusalCode.MISSING_PACKAGE,
        RefusalCode.CODEC_MISSING,
        RefusalCode.FILE_NOT_FOUND,
    )
)


@dataclass(frozen=True)
class BundleOf:
    """A bundle as all machines must find it.

    Attributes:
        where: short name, or path.
        name: of its metadata.
        config_sha256: of ``inference.json`` and ``metadata.json``.
        weights_sha256: of its weights.
    """

    where: str
    name: str
    config_sha256: str
    weights_sha256: str


@dataclass(frozen=True)
class Job:
    """What all cases of one run have in common; it travels with each of them.

    Attributes:
        run: name of this run.
        output: folder or URL.
        bundles: by the name that the manifest gives; ``""`` is the one of the command line.
        options: of the results.
        device: see :func:`convformer_monai.segmenter.choose_device`.
        flips: see :class:`convformer_monai.segmenter.Segmenter`.
        force_modality: see there.
        network_engine: ``engine`` there.
        attempts: how often a case is started before it is given up.
        retry_failed: start those anew that an earlier run gave up.
        threads: of a worker process on the CPU; 0 leaves it to the environment.
    """

    run: str
    output: str
    bundles: Mapping[str, BundleOf]
    options: Options
    device: str = "auto"
    flips: bool = False
    force_modality: bool = False
    network_engine: str = "torch"
    attempts: int = 2
    retry_failed: bool = False
    threads: int = 0

    def options_of(self, entry: Entry) -> Options:
        """The options of a case."""
        return replace(
            self.options,
            series_uid=entry.series_uid or self.options.series_uid,
            phase=entry.phase or self.options.phase,
        )

    def made_by(self, entry: Entry, input_fingerprint: str) -> dict[str, str]:
        """What the results of a case follow from, as the status keeps it."""
        bundle = self.bundles[entry.bundle]
        return made_by(
            bundle.config_sha256,
            bundle.weights_sha256,
            self.options_of(entry),
            input_fingerprint,
            flips=self.flips,
            force_modality=self.force_modality,
            engine=self.network_engine,
        )


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        todo: the cases, in the manifest's order; those to be done one by one last.
        before: statuses of the others.
        seconds: median time of a case that is done; ``None`` if none is.
        source: where ``seconds`` come from.
        at_a_time: cases that are done together.
        alone: how many of ``todo``, its last ones, are done one by one, since runs have ended while they did them.
    """

    todo: Sequence[Entry]
    before: Sequence[Status] = ()
    seconds: float | None = None
    source: str = ""
    at_a_time: int = 1
    alone: int = 0

    @property
    def seconds_in_all(self) -> float | None:
        """How long it would take, if that is known."""
        return None if self.seconds is None else self.seconds * len(self.todo) / self.at_a_time

    def to_json(self) -> dict[str, Any]:
        """Returns what would be done as JSON types."""
        counts = Counter(status.state for status in self.before)
        return {
            "to_do": len(self.todo),
            "before": {state: counts[state] for state in (DONE, *BAD)},
            "at_a_time": self.at_a_time,
            "seconds_a_case": self.seconds,
            "seconds": self.seconds_in_all,
        }

    def to_text(self) -> str:
        """Says what would be done, and how long it would take."""
        counts = Counter(status.state for status in self.before)
        lines = [f"{len(self.todo)} to do", *(f"{counts[state]} {state} before" for state in (DONE, *BAD))]
        if self.seconds_in_all is None:
            lines.append("time: unknown, no case of this output folder has been done yet")
        else:
            hours, rest = divmod(round(self.seconds_in_all), 3600)
            lines.append(
                f"time: about {hours} h {rest // 60:02} min {rest % 60:02} s with {self.at_a_time} at a time "
                f"({self.seconds:.1f} s a case, {self.source})"
            )
        return "\n".join(lines) + "\n"


@dataclass
class _Known:
    """Bundles that were opened, by the name in the manifest."""

    found: dict[str, BundleOf] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def describe_bundle(bundle: str) -> BundleOf:
    """Opens a bundle and hashes what its results follow from; needs no torch.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`.

    Raises:
        InputRefused: as there, or ``WEIGHTS_NOT_FOUND``.
    """
    opened = Bundle(bundle)
    opened.task  # noqa: B018 (unusable metadata are refused now)
    weights = str(opened.metadata["weights_sha256"]).lower()
    if not weights:
        if not opened.weights.is_file():
            raise InputRefused(RefusalCode.WEIGHTS_NOT_FOUND, f"{opened.weights} does not exist; get the bundle again")
        weights = file_sha256(opened.weights)
    where = bundle if opened.short_name == bundle else str(local_path(bundle).absolute())
    return BundleOf(where, opened.name, opened.config_sha256, weights)


def open_bundles(source: str, bundle: str, entries: Sequence[Entry]) -> dict[str, BundleOf]:
    """Opens every bundle that is named.

    Args:
        source: the manifest.
        bundle: of the command line, for the cases that name none.
        entries: of the manifest.

    Raises:
        InputRefused: ``MANIFEST`` if the manifest names an unknown one; as :func:`describe_bundle` for ``bundle``.
    """
    named = sorted({entry.bundle for entry in entries})
    known = _Known()
    for name in named:
        try:
            known.found[name] = describe_bundle(name or bundle)
        except InputRefused as error:
            if not name:
                raise
            known.problems.append(f"bundle {name}: {error.message}")
    refuse_problems(source, known.problems)
    return known.found


def known(place: Place, case: str) -> Status | None:
    """What is known of a case: its status, which is ``to do`` if a file is gone of the results that it tells of.

    In object storage, where each question costs a request, only the report is looked for.

    Args:
        place: output of the cohort.
        case: its name.
    """
    status = read_status(place, case)
    if status is None or status.state != DONE:
        return status
    files = [case + REPORT, *beside(case, status.files if isinstance(place, Folder) else ())]
    return status if all(map(place.exists, files)) else replace(status, state=TODO)


def beside(case: str, files: Sequence[str]) -> list[str]:
    """Files of a case's results, by their names below the output folder.

    Args:
        case: its name.
        files: their own names.
    """
    folder = case[: case.rfind("/") + 1]
    return [folder + name for name in files]


def standing(status: Status | None, made_by: Mapping[str, str], job: Job, seen: str | None = None) -> str:
    """Tells whether a case is to be done.

    Args:
        status: what is known of it.
        made_by: what its results would follow from.
        job: the run.
        seen: see :class:`Entry`: what has ended since is not done again by a run that overwrites.

    Returns:
        ``to do``, or the state that stays: ``done``, ``refused``, ``failed`` or ``quarantined``.
    """
    if status is None or dict(status.made_by) != dict(made_by):
        return TODO
    ours = status.run == job.run
    if job.options.overwrite and not ours and seen in (None, status.finished):
        return TODO
    if status.state == DONE:
        return DONE
    if status.state == REFUSED:
        final = ours or (status.code not in OF_THE_MACHINE and status.version == __version__)
        return REFUSED if final else TODO
    if status.state in (FAILED, QUARANTINED):
        anew = job.retry_failed and not ours
        return TODO if anew or (status.state == FAILED and status.attempts < job.attempts) else status.state
    return TODO


def stops_of(status: Status | None, made_by: Mapping[str, str], job: Job) -> int:
    """How many runs before this one ended while they did a case.

    Args:
        status: what is known of the case.
        made_by: what its results would follow from.
        job: the run.
    """
    if status is None or status.state != RUNNING or dict(status.made_by) != dict(made_by):
        return 0
    return status.stops + (status.run != job.run)


def make_plan(
    source: str,
    entries: Sequence[Entry],
    job: Job,
    place: Place,
    progress: Callable[[int], None] = lambda count: None,
) -> Plan:
    """Looks at every input and every status, and says what is to be done.

    Args:
        source: the manifest.
        entries: the cases.
        job: the run.
        place: its output folder.
        progress: is called with the number of cases looked at.

    Raises:
        InputRefused: ``MANIFEST``, after a line for each of the first missing inputs and impossible names.
    """

    def look(entry: Entry) -> tuple[Entry, str | None, Status | None]:
        return entry, fingerprint(entry.path, job.output), known(place, entry.case)

    problems: list[str] = []
    todo: list[Entry] = []
    alone: list[Entry] = []
    before: list[Status] = []
    with ThreadPoolExecutor(CHECKS_AT_A_TIME) as pool:
        for number, (entry, found, status) in enumerate(pool.map(look, entries, chunksize=64), 1):
            if found is None:
                problems.append(f"case {entry.case!r}: {entry.path} does not exist")
                continue
            problems += _name_problems(entry, job)
            origin = job.made_by(entry, found)
            state = standing(status, origin, job)
            if state == TODO:
                suspect = stops_of(status, origin, job) >= STOPS_ALONE
                (alone if suspect else todo).append(replace(entry, seen=status.finished if status else ""))
            else:
                assert status is not None
                before.append(status)
            progress(number)
    refuse_problems(source, problems)
    return Plan([*todo, *alone], before, *_estimate(before), alone=len(alone))


def _name_problems(entry: Entry, job: Job) -> list[str]:
    if is_url(job.output):
        return []
    try:
        check_name(entry.case, job.options_of(entry))
    except InputRefused as error:
        return [error.message]
    return []


def _estimate(before: Sequence[Status]) -> tuple[float | None, str]:
    times = [status.seconds for status in before if status.state == DONE and status.seconds > 0]
    if not times:
        return None, ""
    return statistics.median(times), f"the median of {len(times)} done before"
