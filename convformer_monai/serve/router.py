"""A complete study becomes jobs: each series goes to the first rule that it fits, what no rule takes is counted."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convformer_monai import __version__
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import PHOTO_CLASSES
from convformer_monai.serve.config import NodeConfig, Rule
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.intake import short
from convformer_monai.serve.records import Instance, NewJob
from convformer_monai.serve.seldom import Seldom
from convformer_monai.serve.state import State

__all__ = ["WHOLE_STUDY", "Router"]

logger = logging.getLogger(__name__)

WHOLE_STUDY = "study"  # the target of a rule that takes all matching series as one image
KEYWORDS = ("Modality", "BodyPartExamined", "SeriesDescription", "ProtocolName", "ImageType")
ATTRIBUTES = {
    "modality": "Modality",
    "body_part": "BodyPartExamined",
    "series_description": "SeriesDescription",
    "protocol": "ProtocolName",
}
SCOUTS = {"LOCALIZER", "SCOUT"}
GONE = "images of this series are no longer kept; send the whole series again"


@dataclass(frozen=True)
class _Target:
    """What a rule takes together."""

    uid: str
    rule: Rule
    instances: tuple[Instance, ...]


class Router:
    """Applies the rules.

    Args:
        config: the rules.
        state: where jobs are queued.
        made_by: for each bundle what its results follow from: its name, version and hash of the weights.
        counts: gets what was routed, and what not.
    """

    def __init__(self, config: NodeConfig, state: State, made_by: Mapping[str, Sequence[str]], counts: Counts) -> None:
        self.config, self.state, self.made_by, self.counts = config, state, made_by, counts
        self._seldom = Seldom(logger)

    def route_all(self) -> int:
        """Routes all studies that are complete.

        Returns:
            How many jobs are new.
        """
        new = 0
        for study, received in self.state.complete_studies(self.config.quiet_s):
            try:
                new += self.route(study, received)
            except OSError:  # the others are routed all the same
                self._seldom.warn(f"study {short(study)} waits: its images cannot be read now")
        return new

    def route(self, study: str, received: float) -> int:
        """Routes one study, unless more of it has come since.

        Args:
            study: its UID.
            received: when its last instance came.

        Returns:
            How many jobs are new.

        Raises:
            OSError: if an image cannot be read now; nothing is changed then.
        """
        targets, unmatched = self._targets(self.state.instances_of(study))
        dropped = unmatched if self.config.unmatched == "drop" else []
        new = self.state.settle(study, received, [self._job(target) for target in targets], dropped)
        if new is None:
            return 0
        for one in dropped:
            (self.config.folder / one.file).unlink(missing_ok=True)
        series = len({one.series for one in unmatched})
        if series:
            self.counts.add("series_unmatched", value=series)
        self.counts.add("jobs_queued", value=len(new))
        logger.info(
            "study %s is complete; new jobs: %s; series without a rule: %d",
            *(short(study), ", ".join(map(str, new)) or "none", series),
        )
        return len(new)

    def _targets(self, instances: Sequence[Instance]) -> tuple[list[_Target], list[Instance]]:
        """What is to be done, and the instances that no rule takes."""
        missing = {one.uid for one in instances if one.present and not (self.config.folder / one.file).is_file()}
        if missing:
            self._seldom.warn(f"{len(missing)} images of study {short(instances[0].study)} are gone from the folder")
        instances = [replace(one, present=False) if one.uid in missing else one for one in instances]
        by_series: dict[str, list[Instance]] = {}
        gone = [one for one in instances if not one.present]
        for one in instances:
            by_series.setdefault(one.series, []).append(one)
        taken: dict[tuple[str, str], list[Instance]] = {}
        rules = {rule.name: rule for rule in self.config.rules}
        unmatched: list[Instance] = []
        for series, members in by_series.items():
            kept = [one for one in members if one.present]
            if not kept:  # cleared away after it was answered, or by somebody else: taken when it is sent again
                continue
            rule = self._rule(kept)
            if rule is None:
                unmatched += kept
                continue
            for one in members:
                taken.setdefault((_target_uid(one, series, rule), rule.name), []).append(one)
        for (uid, _), them in taken.items():
            if uid == WHOLE_STUDY:  # which series it had before is not known, but of which class
                classes, there = {one.class_uid for one in them}, {one.uid for one in them}
                them += [one for one in gone if one.class_uid in classes and one.uid not in there]
        return [_Target(uid, rules[name], tuple(them)) for (uid, name), them in taken.items()], unmatched

    def _rule(self, series: Sequence[Instance]) -> Rule | None:
        """The first rule that a series fits, by the first of its instances that can be read."""
        headers = (_header(self.config.folder / one.file) for one in series)
        found = next((header for header in headers if header is not None), {})
        if SCOUTS & set(found.get("ImageType", "").upper().split("\\")):
            return None
        values = {key: found.get(name, "") for key, name in ATTRIBUTES.items()}
        values["calling_ae"] = series[0].source
        return next((rule for rule in self.config.rules if _fits(rule.match, values)), None)

    def _job(self, target: _Target) -> NewJob:
        """The job of a target; refused at once if images of it are gone."""
        rule = target.rule
        options = {key: value for key, value in rule.options.recorded().items()}
        content = [__version__, *self.made_by[rule.bundle], options, sorted(one.uid for one in target.instances)]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        there = [one.file for one in target.instances if one.present]
        refusal = (str(RefusalCode.INCOMPLETE), GONE) if len(there) < len(target.instances) else None
        again = rule.when_grown == "new-version"
        return NewJob(target.uid, rule.name, digest, tuple(there), again, refusal)


def _target_uid(instance: Instance, series: str, rule: Rule) -> str:
    """A photograph is an image by itself."""
    if instance.class_uid.startswith(PHOTO_CLASSES):
        return instance.uid
    return WHOLE_STUDY if rule.whole_study else series


def _header(path: Path) -> dict[str, str] | None:
    """What rules look at, of one file; empty texts for what it does not say, ``None`` if it is damaged.

    Raises:
        OSError: if it cannot be read now.
    """
    from convformer_monai.readers.dicom.parsing import read_header, silent_pydicom

    try:
        with silent_pydicom:
            header, _ = read_header(path, KEYWORDS)
            return {name: _text(header.get(name)) for name in KEYWORDS}
    except InputRefused as refusal:
        if isinstance(refusal.__context__, OSError):
            raise OSError("an image cannot be read now") from None
    except MemoryError:
        raise OSError("an image cannot be read now") from None
    except (ValueError, TypeError, LookupError, AttributeError):  # its reader will say what is wrong
        pass
    return None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return (
        str(value)
        if isinstance(value, str)
        else "\\".join(map(str, value))
        if isinstance(value, Sequence)
        else str(value)
    )


def _fits(match: Mapping[str, Sequence[str]], values: Mapping[str, str]) -> bool:
    """Whether each value fits one of its patterns, in whatever case."""
    return all(
        any(fnmatch.fnmatchcase(values[key].strip().casefold(), pattern.casefold()) for pattern in patterns)
        for key, patterns in match.items()
    )
