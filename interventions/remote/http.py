"""What is said to an NDIF server over HTTP: where it is, with which key, and what its answers mean.

The key is read from the environment when it is needed, goes to that server alone, and is taken out of whatever a server
or a library says. Answers are data or one sentence; faults that may pass are waited out, less and less often.
"""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import NoReturn
from urllib.parse import urlsplit

from ..errors import InternalError, JobFailed, KeyRefused, NothingThere, RequestRefused, ServerUnreachable
from ..extras import extra
from ..progress import TRAFFIC, tell

with extra("remote"):
    import httpx
    from tenacity import RetryCallState, Retrying, retry_if_exception_type

BACK_OFF = 1.0  # seconds before the first repetition; doubled each time, and spread by half
_LIMITS = httpx.Timeout(10.0, read=60.0, write=120.0)
# Answers of proxies and of a cluster that is coming back. Others would be the same the next time.
_PASSING_CODES = (408, 425, 429, 500, 502, 503, 504)
MAX_INTERNAL_ERRORS = 5  # after which the request itself counts as their cause
_SPREAD = random.Random()  # of its own: pauses must not move what an experiment draws
_SECRET = "[key]"
_client: list[httpx.Client] = []  # one for all requests, made at the first


def host() -> str:
    """The server's address: NDIF_HOST, or that of nnsight's configuration (the public service)."""
    return (os.environ.get("NDIF_HOST") or _public_host()).strip().rstrip("/")


def _public_host() -> str:
    from nnsight.schema.config import CONFIG  # heavy

    return CONFIG.API.HOST


def shown(address: str) -> str:
    """The server of an address, without a user name and password that it may hold."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def no_ndif() -> str:
    """The sentence about a server that answers with something else."""
    return f"What answers at {shown(host())} is no NDIF server: correct NDIF_HOST."


def api_key() -> str:
    """NDIF_API_KEY of the environment; empty if there is none."""
    return os.environ.get("NDIF_API_KEY", "").strip()


def without_key(text: str) -> str:
    """A text without the key, and without the password of an address.

    What is shorter than a word is no secret, but what one gives a server that asks for none.
    """
    text = re.sub(r"(\w+://)[^/@\s]+@", r"\1", text)
    return text.replace(api_key(), _SECRET) if len(api_key()) > 7 else text


def patience() -> float:
    """Seconds without news after which a server or a job counts as lost: NDIF_PATIENCE, or ten minutes."""
    told = os.environ.get("NDIF_PATIENCE") or "600"
    if not re.fullmatch(r"\d+(\.\d+)?", told.strip()):
        raise RequestRefused(f"NDIF_PATIENCE must be a number of seconds, such as 600, not {told!r}.")
    return float(told)


def get(path: str, *, patient: bool = False) -> httpx.Response:
    """What a server answers to GET; an address of its own for another service, such as a store of results.

    patient: connection faults and passing codes are waited out, see `patience`. Raises NDIFError.
    """
    return with_retries(lambda: send("GET", path), patience() if patient else 0.0)


def with_retries(request: Callable[[], httpx.Response], longest: float) -> httpx.Response:
    """Send a request again, less and less often, until the server answers it.

    Args:
        request: sends it once.
        longest: seconds after which a failure is final.

    Raises:
        ServerUnreachable: there was no answer for `longest` seconds.
        JobFailed: the server answered it with an internal error MAX_INTERNAL_ERRORS times.
        NDIFError: what else `request` raises.
    """
    began, internal_errors = time.monotonic(), []

    def is_final(state: RetryCallState) -> bool:
        if isinstance(state.outcome.exception(), InternalError):
            internal_errors.append(state.attempt_number)
        return state.seconds_since_start > longest or len(internal_errors) == MAX_INTERNAL_ERRORS

    def give_up(state: RetryCallState) -> NoReturn:
        error = state.outcome.exception()
        if state.seconds_since_start > longest:
            raise error  # pyright: ignore[reportGeneralTypeIssues]
        raise JobFailed(str(error)) from error

    def count_and_tell(state: RetryCallState) -> None:
        TRAFFIC.repeated += 1
        tell(began, f"{state.outcome.exception()} Trying again for up to {longest:.0f} s.")

    return Retrying(
        retry=retry_if_exception_type(ServerUnreachable), stop=is_final, retry_error_callback=give_up,
        wait=lambda state: back_off(state.attempt_number), before_sleep=count_and_tell,
    )(request)


def back_off(attempt: int) -> float:
    """Seconds before the n-th repetition, spread so that many clients of one server do not come back together."""
    return min(60.0, BACK_OFF * 2 ** min(attempt - 1, 10)) * _SPREAD.uniform(0.5, 1.5)


def send(method: str, path: str, **content) -> httpx.Response:
    """One HTTP request; content: as for `httpx.Client.request`.

    Raises ServerUnreachable (InternalError for a 500) where a later one may fare better; RequestRefused (KeyRefused)
    where none of this key would, JobFailed where only this one does not, NothingThere for what GET does not find.
    """
    address, headers, login, ours = path, None, None, path.startswith("/")
    if ours:
        address, login = _without_login(host() + path)
        headers = {"nnsight-version": version("nnsight"), "python-version": sys.version}
        if not api_key().isascii() or not api_key().isprintable():
            raise RequestRefused("NDIF_API_KEY holds a character that no key has: copy it again from your account.")
        if api_key():
            headers["ndif-api-key"] = api_key()
    where = f"The server {shown(address)}"
    if not _client:
        _client.append(httpx.Client(timeout=_LIMITS))
    try:
        response = _client[0].request(method, address, headers=headers, auth=login, **content)
    except (httpx.TransportError, httpx.InvalidURL, OSError) as error:
        why = without_key(str(error)) or type(error).__name__
        remedy = "check NDIF_HOST, and that it is running" if ours else (
            "results are fetched from there; its operator has to set NDIF_OBJECT_STORE_PUBLIC_URL to what clients reach"
        )
        raise ServerUnreachable(f"{where} does not answer ({why}): {remedy}.") from None
    TRAFFIC.bytes_up += int(response.request.headers.get("content-length", 0))
    TRAFFIC.bytes_down += len(response.content)
    if response.is_success:
        return response
    if method == "GET" and response.status_code in ((404,) if ours else (403, 404)):
        raise NothingThere(f"{where} has nothing at {path.partition('?')[0]!r}: check NDIF_HOST.")
    said = _detail(response)
    if response.status_code in _PASSING_CODES:
        kind = InternalError if response.status_code == 500 else ServerUnreachable
        raise kind(f"{where} is not ready ({response.status_code}: {said}): try again later.")
    if _key_is_refused(response, said):
        raise KeyRefused(f"{where} does not accept the key in NDIF_API_KEY ({said}).")
    if response.status_code in (400, 401, 403):  # of a client that is too old, for one
        raise RequestRefused(f"{where} refuses requests ({response.status_code}: {said}).")
    raise JobFailed(f"{where} refuses this request ({response.status_code}: {said}).")


def _key_is_refused(response: httpx.Response, said: str) -> bool:
    """Whether a server refuses the key: it asks for another one, not for a password, or says so of an API key.

    Other sentences hold the letters "key", too: "model_key", "Turkey-8B".
    """
    if response.status_code == 401 and not response.headers.get("www-authenticate", "").lower().startswith("basic"):
        return True
    named = re.search(r"(?<![a-z])api[ _-]?keys?(?![a-z])", said, re.IGNORECASE)
    return response.status_code in (400, 401, 403) and named is not None


def _without_login(address: str) -> tuple[str, tuple[str, str] | None]:
    """An address without user name and password, which httpx would log, and these."""
    url = _url(address)
    if url is None or url.scheme not in ("http", "https") or "@" in url.raw_path.decode() + url.fragment:
        raise RequestRefused(
            "NDIF_HOST is not an address such as https://api.ndif.us (a password in it needs %2F for /, %23 for #)."
        )
    if not url.userinfo:
        return address, None
    return str(url.copy_with(username=None, password=None)), (url.username, url.password)


def _url(address: str) -> httpx.URL | None:
    try:
        return httpx.URL(address)
    except (httpx.InvalidURL, ValueError):
        return None


def _detail(response: httpx.Response) -> str:
    try:
        body = response.json()
        said = body.get("detail", body) if isinstance(body, dict) else body
    except ValueError:
        said = response.text
    return without_key(str(said)).strip()[:500].rstrip(".") or "no reason given"
