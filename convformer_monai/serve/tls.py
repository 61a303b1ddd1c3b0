"""TLS with certificates from PEM files: version 1.2 or later, and checked both ways where a CA is given."""

from __future__ import annotations

import ssl
from typing import Any

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.serve.config import Tls

__all__ = ["client_context", "server_context"]


def server_context(tls: Tls, sockets: Any = ssl.SSLSocket) -> ssl.SSLContext:
    """For what listens; with a CA, clients must have a certificate that it signed.

    Args:
        tls: the files.
        sockets: class of the sockets.

    Raises:
        InputRefused: ``CONFIG`` if they cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = sockets
    _load(context, tls)
    if tls.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """For what connects; without a CA, those of the system are trusted.

    Args:
        tls: the files.

    Raises:
        InputRefused: ``CONFIG`` if they cannot be used.
    """
    context = ssl.create_default_context() if tls.ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, tls)
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key, password="")
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
    except (OSError, ValueError) as error:
        raise InputRefused(
            RefusalCode.CONFIG,
            f"tls: {tls.cert}, {tls.key} or {tls.ca} cannot be used as PEM ({type(error).__name__}); check the files",
        ) from None
