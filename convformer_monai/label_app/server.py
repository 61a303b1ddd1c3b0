"""MONAI Label's web server with refusals answered as such, for hosts that it was started for; the app behind uvicorn.

``convformer-monai label`` starts it. Under MONAI Label's own ``start_server`` the app runs without this file: refusals
inside of it are still 4xx, but a malformed request is answered with 500, and any host name is served.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.utils import background_executors, processes, stop_background_task
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from convformer_monai.errors import InputRefused
from convformer_monai.label_app.answers import status_of
from convformer_monai.label_app.login import USERS, Login, read_users

__all__ = ["HOSTS", "app"]

HOSTS = "CONVFORMER_LABEL_HOSTS"


def _answer(status: int, text: str) -> JSONResponse:
    return JSONResponse({"detail": text}, status_code=status)


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    return _answer(status_of(error), str(error)) if isinstance(error, InputRefused) else _answer(400, str(error))


async def _not_json(_request: Request, error: Exception) -> JSONResponse:
    return _answer(400, f"error[OPTION]: what should be JSON is none: {error}")


async def _label_error(_request: Request, error: Exception) -> JSONResponse:
    text = str(getattr(error, "msg", error))
    return _answer(404 if "not found" in text.lower() else 400, text)


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    """MONAI Label answers 500 where nothing is named, or a format is asked for that it does not have here."""
    status, detail = int(getattr(error, "status_code", 500)), str(getattr(error, "detail", error))
    return _answer(400, f"error[OPTION]: {detail}") if status == 500 else _answer(status, detail)


async def _check(request: Request, go_on: Callable[[Request], Awaitable[Any]]) -> Any:
    origin = request.headers.get("origin")  # sent by browsers
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        return _answer(403, f"error[FORBIDDEN]: pages of {origin} may not use this server")
    try:
        app_instance().check(request.method, request.url.path, request.query_params)
    except InputRefused as refusal:
        return _answer(status_of(refusal), str(refusal))
    return await go_on(request)


async def _admit(request: Request, go_on: Callable[[Request], Awaitable[Any]]) -> Any:
    """Lets users in, where the server has a login, and answers for MONAI Label's routes of it."""
    if _login is None:
        return await go_on(request)
    path = request.url.path.rstrip("/")
    if path == "/auth" and request.method == "GET":
        return JSONResponse({"enabled": True, "client_id": "convformer-monai", "realm": ""})
    if path == "/auth/token" and request.method == "POST":
        return await _token(_login, request)
    user = await _login.user_of(request.headers.get("authorization", ""), _address(request))
    if user is None:
        refusal = _answer(401, "error[LOGIN]: name and password, or a token of /auth/token, are needed")
        refusal.headers["WWW-Authenticate"] = 'Basic realm="convformer-monai", charset="UTF-8"'
        return refusal
    if path == "/auth/token/valid":
        return JSONResponse({"username": user, "email": None, "name": user, "roles": []})
    return await go_on(request)


def _address(request: Request) -> str:
    """Where a request comes from; through a proxy on this machine, what that says (``X-Forwarded-For``)."""
    return request.client.host if request.client else ""


async def _token(login: Login, request: Request) -> JSONResponse:
    """A token for name and password, which come as a form."""
    async with request.form(max_files=0, max_fields=10) as form:
        name, password = str(form.get("username", "")), str(form.get("password", ""))
    if not await login.is_password(name, password, _address(request)):
        return _answer(401, "error[LOGIN]: wrong name or password")
    return JSONResponse({"access_token": login.new_token(name), "token_type": "Bearer"})


_login = Login(read_users(Path(os.environ[USERS]))) if os.environ.get(USERS) else None
_lifespan = app.router.lifespan_context


@asynccontextmanager
async def _with_an_end(application: Any) -> AsyncIterator[None]:
    """The server's life; trainings and scorings end with it instead of holding it up or outliving it."""
    async with _lifespan(application):
        yield
    for method, executor in list(background_executors.items()):
        executor.shutdown(wait=False, cancel_futures=True)
        if processes(method):
            stop_background_task(method)


app.router.lifespan_context = _with_an_end
# MONAI Label lets every page that is open in the annotator's browser use the server; ours serves its own viewer only.
app.user_middleware = [one for one in app.user_middleware if one.cls is not CORSMiddleware]
app.add_exception_handler(InputRefused, _refused)
app.add_exception_handler(json.JSONDecodeError, _not_json)
app.add_exception_handler(MONAILabelException, _label_error)
app.add_exception_handler(HTTPException, _http_error)
app.middleware("http")(_check)
app.middleware("http")(_admit)  # before the check: what was added last is asked first
app.add_middleware(TrustedHostMiddleware, allowed_hosts=os.environ.get(HOSTS, "127.0.0.1,localhost").split(","))
