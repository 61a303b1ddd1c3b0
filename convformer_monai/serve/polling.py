"""A PACS that is asked for new series, where it cannot send them by itself: QIDO-RS and WADO-RS."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone

from convformer_monai.serve.config import Limits, Source
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.dicomweb import STUDY_UID, DicomWeb, WebFault, WebSeries, value_of
from convformer_monai.serve.intake import MB, Intake, NotTaken, short
from convformer_monai.serve.records import Instance
from convformer_monai.serve.seldom import Seldom
from convformer_monai.serve.state import GROWING, NEW, State

__all__ = ["Poller"]

logger = logging.getLogger(__name__)

PAGE = 500  # studies of one answer
REST_S = 3600.0  # for how long the rest of a study is waited for that was fetched in part


class Poller:
    """Asks one source.

    A study is fetched when a second question finds as many instances as the first: then it is complete.

    Args:
        source: whom.
        state: what was fetched before.
        intake: takes instances.
        limits: what is taken at most.
        counts: gets what was fetched.
        stopped: whether to end now.
    """

    def __init__(
        self,
        source: Source,
        state: State,
        intake: Intake,
        limits: Limits,
        counts: Counts,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.source, self.state, self.intake, self.limits, self.counts = source, state, intake, limits, counts
        self.stopped = stopped
        self.server = DicomWeb(source.url, source.token, source.tls, limits.network_s)
        self._seldom, self.reachable = Seldom(logger), True

    def ask(self) -> int:
        """Asks once, and fetches what is new.

        Returns:
            How many series were fetched.
        """
        fetched, good = 0, True
        try:
            studies = self._studies()
        except WebFault as fault:
            studies, good = [], self._failed(fault)
        for study in studies:
            if self.stopped() or not self.intake.has_space():
                break
            try:
                fetched += self._fetch_study(study)
            except WebFault as fault:  # the others are fetched all the same
                good = self._failed(fault)
        self.reachable = good
        self.counts.add("polls", "answered" if good else "failed")
        return fetched

    def _failed(self, fault: WebFault) -> bool:
        self._seldom.warn(f"{self.source.name} {fault.reason}")
        return False

    def _studies(self) -> list[str]:
        """UIDs of the studies of the last days."""
        query = dict(self.source.query)
        if self.source.days:
            first = datetime.now(timezone.utc) - timedelta(days=self.source.days)
            query.setdefault("StudyDate", f"{first:%Y%m%d}-")
        found: list[str] = []
        while True:
            page = self.server.find("studies", {**query, "limit": str(PAGE), "offset": str(len(found))})
            uids = [value_of(one, STUDY_UID) for one in page]
            new = [uid for uid in uids if uid and uid not in found]
            found += new
            if len(page) < PAGE or not new:
                return found

    def _fetch_study(self, study: str) -> int:
        """Fetches what is new of a study; returns how many series."""
        new = self._new_series(study)
        for series in new:
            try:
                self._fetch(series)
            except WebFault:  # what is here of it is not the whole
                self.state.put_off(study, max(REST_S, 3 * self.source.every_s))
                raise
        if new:
            self.state.complete([study])
        return len(new)

    def _new_series(self, study: str) -> list[WebSeries]:
        """What is to be fetched of a study; nothing while any series of a wanted modality still grows."""
        wanted = [one for one in self.server.series_of(study) if one.modality in self.source.modalities]
        seen = [self.state.polled(self.source.name, one.uid, one.instances) for one in wanted]
        return [] if GROWING in seen else [one for one, how in zip(wanted, seen, strict=True) if how == NEW]

    def _fetch(self, series: WebSeries) -> None:
        """Fetches a series; one of which an image cannot be taken is left out, and not asked for again as it is."""
        before = {one.uid for one in self.state.instances_of(series.study) if one.present}
        taken: list[Instance] = []
        try:
            whole = self._take(series, taken)
        except WebFault as fault:
            if not fault.for_good:
                raise
            whole = self._failed(fault)
        self.state.fetched(self.source.name, series.uid, series.instances)
        if not whole:
            self._leave_out(series, [one for one in taken if one.uid not in before])
            return
        self.counts.add("series_fetched")
        logger.info("fetched a series of study %s from %s", short(series.study), self.source.name)

    def _take(self, series: WebSeries, taken: list[Instance]) -> bool:
        """Takes the instances of a series; returns whether all of its images are here."""
        whole = True
        for content in self.server.instances(series.study, series.uid, self.limits.instance_mb * MB):
            try:
                taken.append(self.intake.take(content, self.source.name))
            except NotTaken as refusal:
                if refusal.reason in ("disk", "storage"):
                    raise WebFault("is asked again later: the disk is full") from None
                whole = whole and refusal.reason == "class"  # reports and the like are no part of the volume
                self._seldom.warn(f"{self.source.name}: {refusal}")
        return whole

    def _leave_out(self, series: WebSeries, taken: Sequence[Instance]) -> None:
        """Forgets what came of a series that is not whole, since a part of a volume would be taken for all of it."""
        self.state.drop(taken)
        for one in taken:
            (self.intake.folder / one.file).unlink(missing_ok=True)
        self.counts.add("series_incomplete")
        logger.warning(
            "a series of study %s from %s is left out: not all of it can be taken",
            short(series.study),
            self.source.name,
        )
