"""``node.yaml``, checked as a whole before anything is started: every fault is named, with its key."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from convformer_monai.bundle import Bundle
from convformer_monai.errors import InputRefused
from convformer_monai.outputs.writer import Options
from convformer_monai.serve.config import (
    Caller,
    Destination,
    Keep,
    Limits,
    NodeConfig,
    Rule,
    Source,
    Tls,
    WebConfig,
)
from convformer_monai.serve.fields import REQUIRED, ConfigRefused, Fields, load_yaml

__all__ = ["MATCHED", "read_config"]

AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5 table 6.2-1: no backslash, no control character
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
MATCHED = ("modality", "body_part", "series_description", "protocol", "calling_ae")
PREVIEW = "preview"
KINDS = ("dicom", "stow", "folder")
SEG_TYPES = ("binary", "labelmap", "BINARY", "LABELMAP")  # as of `segment`, and as DICOM spells them
DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]+)?")


def read_config(path: Path) -> NodeConfig:
    """Reads and checks a configuration.

    Args:
        path: of the YAML file.

    Raises:
        ConfigRefused: with every fault, each with its key.
    """
    content = load_yaml(path)
    faults: list[tuple[str, str]] = []
    top = Fields(content, "", faults, path.resolve().parent)
    ae = _ae(top, "ae_title", REQUIRED)
    values = {
        "ae": ae,
        "host": top.text("listen", "127.0.0.1"),
        "port": top.whole("port", 11112, 0, 65535),
        "folder": top.path("folder", REQUIRED),
        "quiet_s": top.number("quiet_seconds", 30.0, 0.1, 86_400),
        "other_classes": top.text("other_classes", "discard", ("discard", "refuse")),
        "unmatched": top.text("unmatched", "drop", ("drop", "keep")),
        "device": _device(top),
        "threads": top.whole("threads", 0, 0, 1024),
        "attempts": top.whole("attempts", 3, 1, 100),
        "stop_s": top.number("stop_seconds", 60.0, 0, 3600),
        "tls": _tls(top, server=True),
        "limits": _limits(top),
        "keep": _keep(top),
        "callers": tuple(_caller(one) for one in top.items("callers")),
        "destinations": _by_name([_destination(one, ae) for one in top.items("destinations")], top),
    }
    names = tuple(values["destinations"])
    values["rules"] = tuple(_rule(one, names) for one in top.items("rules"))
    values["sources"] = tuple(_source(one) for one in top.items("sources"))
    values["web"] = _web(top) if top.has("web") else None
    top.end()
    _check_together(values, top)
    if faults:
        raise ConfigRefused(path, faults)
    return NodeConfig(**values)


def _check_together(values: dict[str, Any], top: Fields) -> None:
    """What a single value does not tell."""
    if not values["callers"] and not values["sources"]:
        top.fault("callers", "is empty, so nobody may send; name the AE titles that may, or a source to ask")
    if not values["rules"]:
        top.fault("rules", "is empty, so nothing would be segmented; give at least one rule")
    for kind in ("callers", "rules", "sources"):
        names = Counter(getattr(one, "name", None) or getattr(one, "ae", None) for one in values[kind])
        for name in (name for name, count in names.items() if name and count > 1):
            top.fault(kind, f"{name!r} is there twice")


def _ae(fields: Fields, name: str, default: Any) -> Any:
    title = fields.text(name, default)
    if isinstance(title, str) and not AE_TITLE.fullmatch(title):
        fields.fault(name, f"{title!r} is not an AE title: 1 to 16 characters of ASCII without backslash")
    return title


def _device(top: Fields) -> str:
    device = str(top.text("device", "auto"))
    if not DEVICE.fullmatch(device):  # whether the machine has it, torch says at the start
        top.fault("device", f"{device!r} is not a device: give auto, cpu, cuda, cuda:N or mps")
    return device


def _named(fields: Fields) -> Any:
    name = fields.text("name", REQUIRED)
    if name is not None and not NAME.fullmatch(name):
        fields.fault("name", f"{name!r} must be 1 to 40 letters, digits, dots, dashes and underscores")
    return name


def _tls(fields: Fields, *, server: bool) -> Tls | None:
    if not fields.has("tls"):
        return None
    with fields.inner("tls") as inner:
        tls = Tls(inner.file("cert"), inner.file("key"), inner.file("ca"))
        if (tls.cert is None) != (tls.key is None) or (server and tls.cert is None):
            inner.fault("", "needs cert and key, both")
    return tls


def _limits(top: Fields) -> Limits:
    usual = Limits()
    with top.inner("limits") as inner:
        return Limits(
            associations=inner.whole("associations", usual.associations, 1, 1000),
            per_host=inner.whole("per_host", usual.per_host, 1, 1000),
            pdu_bytes=inner.whole("pdu_bytes", usual.pdu_bytes, 4096, 2**24),
            instance_mb=inner.whole("instance_mb", usual.instance_mb, 1, 1024),
            study_mb=inner.whole("study_mb", usual.study_mb, 1, 2**20),
            study_instances=inner.whole("study_instances", usual.study_instances, 1, 20_000),
            min_free_mb=inner.whole("min_free_mb", usual.min_free_mb, 0, 2**24),
            association_s=inner.number("association_seconds", usual.association_s, 0.5, 600),
            network_s=inner.number("network_seconds", usual.network_s, 0.5, 3600),
        )


def _keep(top: Fields) -> Keep:
    usual = Keep()
    with top.inner("keep") as inner:
        return Keep(
            images_hours=inner.number("images_hours", usual.images_hours, 0, 87_600),
            results_hours=inner.number("results_hours", usual.results_hours, 0, 87_600),
            dead_days=inner.number("dead_days", usual.dead_days, 0, 3650),
            records_days=inner.number("records_days", usual.records_days, 1, 36_500),
        )


def _caller(fields: Fields) -> Caller:
    ae, hosts, commitment = _ae(fields, "ae", REQUIRED), fields.texts("hosts"), None
    for host in hosts:
        try:
            ipaddress.ip_network(host, strict=False)
        except ValueError:
            fields.fault("hosts", f"{host!r} is neither an IP address nor a network such as 10.1.0.0/16")
    if fields.has("commitment"):
        with fields.inner("commitment") as inner:
            commitment = (inner.text("host", REQUIRED), inner.whole("port", REQUIRED, 1, 65535))
    return Caller(ae, hosts, commitment)


def _rule(fields: Fields, destinations: tuple[str, ...]) -> Rule:
    name = _named(fields)
    with fields.inner("match") as inner:
        match = {key: patterns for key in MATCHED if (patterns := inner.texts(key))}
    if not match:
        fields.fault("match", f"is empty; give one or more of {', '.join(MATCHED)}")
    bundle = fields.text("bundle", REQUIRED)
    if bundle is not None:
        try:
            Bundle(bundle).task  # noqa: B018 (unusable metadata are refused now)
        except InputRefused as refusal:
            fields.fault("bundle", refusal.message)
    outputs = fields.texts("outputs", ("dicom-seg", "dicom-sr"))
    options = Options(
        formats=tuple(one for one in outputs if one != PREVIEW),
        seg_type=fields.text("seg_type", "binary", SEG_TYPES).upper(),
        preview=PREVIEW in outputs,
        phase=fields.text("phase", "all"),
        resample_uneven=fields.switch("resample_uneven", False),
        overwrite=True,
    )
    try:
        options.check()
    except InputRefused as refusal:
        fields.fault("outputs", refusal.message.replace("--format ", "").replace("--phase", "phase"))
    send_to = fields.texts("send_to", REQUIRED)
    for one in send_to:
        if one not in destinations:
            fields.fault("send_to", f"{one!r} is not a destination; they are {', '.join(destinations) or 'none'}")
    whole_study = fields.text("group", "series", ("series", "study")) == "study"
    when_grown = fields.text("when_grown", "new-version", ("new-version", "ignore"))
    return Rule(name, match, bundle, options, send_to, whole_study, when_grown)


def _destination(fields: Fields, ae: str) -> Destination:
    usual = Destination("", "")
    name, kind = _named(fields), fields.text("kind", REQUIRED, KINDS)
    where: dict[str, Any] = {}
    if kind == "dicom":
        where = {"ae": _ae(fields, "ae", REQUIRED), "host": fields.text("host", REQUIRED)}
        where |= {"port": fields.whole("port", REQUIRED, 1, 65535), "calling_ae": _ae(fields, "calling_ae", ae)}
    elif kind == "stow":
        where = {"url": _url(fields), "token": _token(fields, required=False)}
    elif kind == "folder":
        where = {"path": fields.path("path", REQUIRED)}
    return Destination(
        name,
        kind,
        **where,
        tls=_tls(fields, server=False) if kind != "folder" else None,
        first_wait_s=fields.number("first_wait_seconds", usual.first_wait_s, 0.05, 3600),
        longest_wait_s=fields.number("longest_wait_seconds", usual.longest_wait_s, 0.05, 86_400),
        give_up_hours=fields.number("give_up_hours", usual.give_up_hours, 0, 8760),
    )


def _by_name(destinations: list[Destination], top: Fields) -> dict[str, Destination]:
    named = {one.name: one for one in destinations if one.name}
    if len(named) < sum(bool(one.name) for one in destinations):
        top.fault("destinations", "two have the same name")
    return named


def _source(fields: Fields) -> Source:
    usual = Source("", "")
    name, url = _named(fields), _url(fields)
    with fields.inner("query") as inner:
        query = {key: inner.text(key) for key in list(inner)}
    return Source(
        name,
        url,
        query,
        modalities=fields.texts("modalities", REQUIRED),
        every_s=fields.number("every_seconds", usual.every_s, 0.1, 86_400),
        days=fields.whole("days", usual.days, 0, 36_500),
        token=_token(fields, required=False),
        tls=_tls(fields, server=False),
    )


def _web(top: Fields) -> WebConfig:
    with top.inner("web") as inner:
        return WebConfig(
            host=inner.text("listen", "127.0.0.1"),
            port=inner.whole("port", 8042, 0, 65535),
            token=_token(inner, required=True) or "",
            tls=_tls(inner, server=True),
        )


def _url(fields: Fields) -> Any:
    url = fields.text("url", REQUIRED)
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            fields.fault("url", f"{url!r} is not an address http://... or https://...")
        elif parts.username or parts.password or parts.query:
            fields.fault("url", "holds a password or a query; give a token_file, and the query by itself")
        url = url.rstrip("/")
    return url


def _token(fields: Fields, *, required: bool) -> str | None:
    """The first line of a file, so that no configuration holds a secret."""
    file = fields.file("token_file", REQUIRED if required else None)
    if file is None or not file.is_file():
        return None
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        fields.fault("token_file", f"{file} cannot be read")
        return None
    token = lines[0].strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable():
        fields.fault("token_file", f"{file} must begin with a line of at least 16 characters of ASCII")
    return str(token)
