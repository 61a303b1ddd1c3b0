"""What a node is configured with; :mod:`convformer_monai.serve.config_file` reads it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from convformer_monai.outputs.writer import Options

__all__ = [
    "Caller",
    "Destination",
    "Keep",
    "Limits",
    "NodeConfig",
    "Rule",
    "Source",
    "Tls",
    "WebConfig",
]


@dataclass(frozen=True)
class Tls:
    """Certificates as PEM files.

    Attributes:
        cert: one's own, with those of its issuers.
        key: of it.
        ca: what the other side's must be signed by. Of a server: clients must have one then.
    """

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None


@dataclass(frozen=True)
class Caller:
    """Who may send.

    Attributes:
        ae: its AE title.
        hosts: addresses and networks from which it may call; anywhere if empty.
        commitment: host and port to which reports of storage commitment go; ``None`` for the same association.
    """

    ae: str
    hosts: tuple[str, ...] = ()
    commitment: tuple[str, int] | None = None

    def may_call_from(self, address: str) -> bool:
        """Whether an address is one of ``hosts``."""
        where = ipaddress.ip_address(address.partition("%")[0])
        where = getattr(where, "ipv4_mapped", None) or where  # on a port that takes IPv6, too
        return not self.hosts or any(where in ipaddress.ip_network(host, strict=False) for host in self.hosts)


@dataclass(frozen=True)
class Limits:
    """How much is taken.

    Attributes:
        associations: open at a time.
        per_host: connections from one address at a time.
        pdu_bytes: largest PDU that is taken.
        instance_mb: largest instance.
        study_mb: all instances of a study together.
        study_instances: their number.
        min_free_mb: below it nothing is taken any more: the disk watermark.
        association_s: wait for the request of an association.
        network_s: wait for the next bytes of a peer.
    """

    associations: int = 16
    per_host: int = 8
    pdu_bytes: int = 131_072
    instance_mb: int = 512
    study_mb: int = 8192
    study_instances: int = 20_000
    min_free_mb: int = 2048
    association_s: float = 10.0
    network_s: float = 60.0


@dataclass(frozen=True)
class Keep:
    """For how long things stay.

    Attributes:
        images_hours: received images, after their study was answered.
        results_hours: results, after the last destination has them.
        dead_days: what failed for good.
        records_days: which instances and studies came, and how each ended; without it a study is answered again.
    """

    images_hours: float = 24.0
    results_hours: float = 168.0
    dead_days: float = 30.0
    records_days: float = 365.0


@dataclass(frozen=True)
class Rule:
    """Which series go to which bundle, and where the results go.

    Attributes:
        name: shown in logs and pages.
        match: patterns by a name of ``config_file.MATCHED``; one of each value's patterns must fit, of all values.
        bundle: name or path.
        options: what is written of a case.
        send_to: names of destinations.
        whole_study: the matching series of a study are one image, as a cine with a series for each slice position.
        when_grown: ``new-version`` or ``ignore``, when images come after the study was answered.
    """

    name: str
    match: dict[str, tuple[str, ...]]
    bundle: str
    options: Options
    send_to: tuple[str, ...]
    whole_study: bool = False
    when_grown: str = "new-version"


@dataclass(frozen=True)
class Destination:
    """Where results go.

    Attributes:
        name: in rules, logs and pages.
        kind: ``dicom`` (C-STORE), ``stow`` (STOW-RS) or ``folder``.
        ae: called AE title, of ``dicom``.
        host: of ``dicom``.
        port: of ``dicom``.
        calling_ae: our AE title there.
        url: root of DICOMweb, of ``stow``.
        token: bearer token, of ``stow``.
        path: of ``folder``.
        tls: certificates.
        first_wait_s: before the second try; it doubles from try to try.
        longest_wait_s: at most.
        give_up_hours: after the first try.
    """

    name: str
    kind: str
    ae: str = ""
    host: str = ""
    port: int = 0
    calling_ae: str = ""
    url: str = ""
    token: str | None = field(default=None, repr=False)
    path: Path | None = None
    tls: Tls | None = None
    first_wait_s: float = 5.0
    longest_wait_s: float = 900.0
    give_up_hours: float = 72.0


@dataclass(frozen=True)
class Source:
    """A DICOMweb server that is asked for new series.

    Attributes:
        name: stands for the calling AE title in rules.
        url: root of DICOMweb.
        query: further matching attributes of QIDO-RS, by keyword.
        modalities: of the series that are fetched.
        every_s: between two questions.
        days: how far back studies are looked for, by StudyDate; 0 for all.
        token: bearer token.
        tls: certificates.
    """

    name: str
    url: str
    query: dict[str, str] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    every_s: float = 60.0
    days: int = 2
    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None


@dataclass(frozen=True)
class WebConfig:
    """The pages for administrators and monitors.

    Attributes:
        host: to listen on.
        port: to listen on; 0 for any.
        token: that all pages but ``/health`` want.
        tls: certificates.
    """

    host: str
    port: int
    token: str = field(repr=False)
    tls: Tls | None = None


@dataclass(frozen=True)
class NodeConfig:
    """The whole configuration.

    Attributes:
        ae: our AE title, which callers must name.
        host: to listen on.
        port: to listen on; 0 for any.
        folder: for all that is kept.
        callers: who may send.
        rules: the first that matches takes a series.
        destinations: by name.
        sources: DICOMweb servers that are polled.
        web: pages; ``None`` for none.
        tls: of the DICOM port.
        limits: how much is taken.
        keep: for how long things stay.
        quiet_s: without a new instance of a study, after which it is complete.
        other_classes: ``discard`` objects that are no images a bundle could take (reports, results) as if they had been
            stored, or ``refuse`` them, which some senders take for the failure of the whole study.
        unmatched: ``drop`` or ``keep`` series that no rule takes.
        device: for the networks.
        threads: of torch; 0 for its own choice.
        attempts: starts of a job before it is given up.
        stop_s: wait for the running job when the node is stopped.
    """

    ae: str
    host: str
    port: int
    folder: Path
    callers: tuple[Caller, ...]
    rules: tuple[Rule, ...]
    destinations: dict[str, Destination]
    sources: tuple[Source, ...] = ()
    web: WebConfig | None = None
    tls: Tls | None = None
    limits: Limits = Limits()
    keep: Keep = Keep()
    quiet_s: float = 30.0
    other_classes: str = "discard"
    unmatched: str = "drop"
    device: str = "auto"
    threads: int = 0
    attempts: int = 3
    stop_s: float = 60.0
