"""Starts MONAI Label's server with our app: for this machine only, without a network, its files in one folder."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import re
import shutil
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.label_app.compat import serve_moved_uids
from convformer_monai.label_app.login import HTPASSWD, USERS, read_users
from convformer_monai.label_app.options import LabelOptions, is_address, read_options
from convformer_monai.label_app.scratch import own_temporary_folder
from convformer_monai.outputs.atomic import check_writable
from convformer_monai.readers.cases import refuse_no_file
from convformer_monai.segmenter import choose_device

__all__ = ["INSTALL", "check_names", "check_tls", "launch", "prepare"]

logger = logging.getLogger(__name__)

MONAI_LABEL = "0.8.5"
INSTALL = (
    f"pip install torch==2.13.0 && pip install monailabel=={MONAI_LABEL} monai==1.6.1 torch==2.13.0 dcmqi==1.5.7 && "
    "pip install 'pydicom>=3.0.2' highdicom==0.28.2"
)
HERE = Path(__file__).resolve().parent
UNUSABLE = "#@$%"  # in paths: MONAI's configs give them a meaning
EVERYWHERE = ("0.0.0.0", "::")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
OWN_ADDRESSES = ("127.0.0.1", "localhost", "::1")
PACS_MEMORY_S = 10  # for how long what the PACS holds is remembered


def need_monai_label() -> None:
    """Refuses to go on where MONAI Label is not installed; imports nothing.

    Raises:
        InputRefused: ``MISSING_PACKAGE``.
    """
    if find_spec("monailabel") is None:
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE, f"MONAI Label is not installed; in an environment of its own: {INSTALL}"
        )


def prepare(
    studies: str,
    bundle: str,
    work: Path | None = None,
    device: str = "auto",
    version: int | None = None,
    *,
    serve: bool = True,
) -> tuple[str, LabelOptions]:
    """Checks what the server is started with, and puts a version of the weights into use.

    Args:
        studies: folder of images, or address of a DICOMweb server.
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        work: folder for what the server makes; ``None`` for ``convformer_label`` in the studies' folder.
        device: see :func:`convformer_monai.segmenter.choose_device`.
        version: of the weights; ``None`` for the one last in use.
        serve: a server is to be started, which needs MONAI Label; nothing is written where it is missing.

    Returns:
        The studies, as MONAI Label wants them, and the options.

    Raises:
        InputRefused: naming what cannot be used.
    """
    if not is_address(studies):
        folder = Path(studies).expanduser()
        if not folder.is_dir():
            raise InputRefused(
                RefusalCode.FILE_NOT_FOUND, f"--studies {folder} is neither a folder nor an address http://..."
            )
        studies = str(folder.resolve())
    for path in (studies, str(work or "")):
        if not is_address(path) and set(path) & set(UNUSABLE):
            raise InputRefused(RefusalCode.PATH, f"MONAI cannot take a path with any of {UNUSABLE}: {path}")
    conf = {"bundle": bundle, "device": device, **({"work": str(work)} if work else {})}
    options = read_options(conf, studies)
    choose_device(device)
    if serve:
        need_monai_label()
    for directory in (options.work, *([] if is_address(studies) else [Path(studies)])):
        check_writable(directory, "labels are kept there")
    if version is not None:
        options.versions.use(version)
    current = options.versions.current
    options.versions.weights(current)
    if serve:
        logger.info("%s", current)
    return studies, options


def check_tls(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Certificate and key as :func:`launch` takes them.

    Args:
        certificate: PEM file.
        key: PEM file.

    Raises:
        InputRefused: if one is missing.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise InputRefused(RefusalCode.OPTION, "--tls-certificate and --tls-key go together; give both")
    for path in (certificate, key):
        if not path.expanduser().is_file():
            refuse_no_file(path, "give a PEM file")
    return certificate.expanduser().resolve(), key.expanduser().resolve()


def check_names(text: str) -> tuple[str, ...]:
    """Further names of this machine, as :func:`launch` takes them.

    Args:
        text: with commas between them.

    Raises:
        InputRefused: ``OPTION`` if one is not the name of a host.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if not NAME.fullmatch(name):
            raise InputRefused(
                RefusalCode.OPTION, f"--name {name!r} is not the name of a host; give it as label.example.org, no port"
            )
    return names


def launch(
    studies: str,
    options: LabelOptions,
    host: str = "127.0.0.1",
    port: int = 8000,
    users: Path | None = None,
    tls: tuple[Path, Path] | None = None,
    names: Sequence[str] = (),
) -> int:
    """Runs the server until it is stopped.

    Args:
        studies: of :func:`prepare`.
        options: of :func:`prepare`.
        host: address to listen on.
        port: to listen on.
        users: password file of those who may use the server, see :func:`convformer_monai.label_app.login.read_users`;
            ``None`` for no login, on this machine's own addresses only.
        tls: certificate and key, PEM; ``None`` for HTTP.
        names: further names under which the server is asked, as by a proxy.

    Returns:
        The exit code.

    Raises:
        InputRefused: ``PORT`` if the port cannot be had; ``LOGIN`` if there is no login and others could get in.
    """
    if users is not None:
        read_users(users)
    elif host not in OWN_ADDRESSES:
        raise InputRefused(
            RefusalCode.LOGIN,
            f"others could reach {host}:{port} without a password; give --users FILE, which `{HTPASSWD} -c FILE NAME` "
            "makes, or leave --host out",
        )
    found = importlib.metadata.version("monailabel")
    if found != MONAI_LABEL:
        logger.warning("MONAI Label %s is installed; this was tested with %s", found, MONAI_LABEL)
    _check_port(host, port)
    app = options.work / "app"
    app.mkdir(exist_ok=True)
    shutil.copyfile(HERE / "sample_app" / "main.py", app / "main.py")
    _set_environment(options, host, users, names)
    serve_moved_uids()
    conf = {"bundle": str(options.bundle.root.resolve()), "work": str(options.work), "device": options.device}
    arguments = ["start_server", "--app", str(app), "--studies", studies, "--host", host, "--port", str(port)]
    arguments += [part for key, value in conf.items() for part in ("--conf", key, value)]
    arguments += ["--uvicorn_app", "convformer_monai.label_app.server:app"]
    if tls is not None:
        arguments += ["--ssl_certfile", str(tls[0]), "--ssl_keyfile", str(tls[1])]
    address = f"{'http' if tls is None else 'https'}://{host}:{port}"
    logger.info("labels of %s: %s in 3D Slicer's MONAI Label", options.name, address)
    if is_address(studies):
        logger.info("viewer: %s/ohif/", address)
    if names and users is None:
        logger.warning("whoever reaches %s gets in without a password; give --users", " or ".join(names))
    if users is not None and tls is None and host not in OWN_ADDRESSES:
        logger.warning("passwords and images go over the network as they are; give --tls-certificate and --tls-key")

    from monailabel.main import Main

    sys.argv = ["monailabel", *arguments]
    # A KeyboardInterrupt is how it is stopped; the web server has ended all by then.
    with contextlib.suppress(KeyboardInterrupt), own_temporary_folder():
        Main().run()
    return 0


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputRefused(
                RefusalCode.PORT, f"port {port} of {host} cannot be had ({error.strerror}); give another --port"
            ) from error


def _set_environment(options: LabelOptions, host: str, users: Path | None, names: Sequence[str]) -> None:
    """What MONAI Label reads from the environment, unless the user has set it."""
    values = {
        "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": str(PACS_MEMORY_S),
        "MONAI_LABEL_SESSION_PATH": str(options.work / "sessions"),
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "CONVFORMER_LABEL_HOSTS": "*" if host in EVERYWHERE else ",".join(("127.0.0.1", "localhost", host, *names)),
    }
    for name, value in values.items():
        os.environ.setdefault(name, value)
    os.environ[USERS] = "" if users is None else str(users.expanduser().resolve())
    before = os.environ.get("PYTHONPATH")  # also that of its trainings, which are processes of their own
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE / "startup"), *([before] if before else [])])
    programs = str(Path(sys.executable).parent)  # dcmqi's
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", "")])
