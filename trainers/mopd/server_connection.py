"""Requests to a teacher's server: attempts, time-outs, keys, and what went wrong in words."""

import ipaddress
import json
import math
import os
import random
import re
import threading
import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.exceptions import HTTPError as BrokenTransfer

FIRST_DELAY_S, MOST_DELAY_S = 0.5, 30.0
MOST_RETRY_AFTER_S = 300.0
MOST_BYTES = 2**30
RETRIED = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, BrokenTransfer)
# Not the global generator: how often a server was asked must not change what training draws.
_jitter = random.SystemRandom()


class TeacherError(RuntimeError):
    """A teacher can't be asked, or its answer can't be used; the message says which one, where, and what to do."""


class Refused(TeacherError):
    """The server answers that a request is wrong: a repetition would not help."""

    def __init__(self, problem: str, remedy: str, status: int):
        super().__init__(f"{problem}. {remedy}")
        self.problem, self.status = problem, status


class Connection:
    """
    The way to one server, for several threads at once.

    Args:
        url, api_key, timeout_s, retries: as of `ServerTeacher`.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float, retries: int):
        self.url, credentials, self._is_loopback = _parts(url)
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ValueError(f"`retries` must be a whole number of at least 0; got {retries!r}.")
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"`timeout_s` must be a number above 0; got {timeout_s!r}.")
        if credentials and api_key is not None:
            raise ValueError("`api_key` must not be given together with a user in `url`; leave one of them out.")
        self._timeout_s, self._retries = timeout_s, retries
        self._auth = credentials or _BearerToken(api_key)
        self._sessions: list[requests.Session] = []

    def request(self, method: str, path: str, body: Any, where: str, stop: threading.Event) -> Any:
        """
        The JSON of the answer, after as many attempts as it takes and is allowed.

        Args:
            where: what is asked for, for errors.
            stop: no further attempt once this is set.

        Raises:
            Refused: for redirects and for 4xx other than 429.
            TeacherError: for what else goes wrong.
        """
        for attempt in range(self._retries + 1):
            delay = min(FIRST_DELAY_S * 2**attempt, MOST_DELAY_S) * _jitter.uniform(0.5, 1.5)
            try:
                status, headers, content = self._exchange(method, path, body)
            except requests.exceptions.SSLError as error:
                why = f"{self.url}: no secure connection ({where}): {_reason(error)}"
                raise TeacherError(f"{why}. Check the address and its certificate.") from None
            except RETRIED as error:
                problem = f"{self.url} can't be reached ({where}): {_reason(error)}"
                remedy = "Is the server running, and is the address right? For a slow one, raise the time-out."
            else:
                if status == 200:
                    return self._json(content, headers, path)
                problem = f"{self.url}{path} answers HTTP {status} ({where}): {_message(content, headers)}"
                if status < 500 and status != 429:
                    raise Refused(problem, _remedy(status, headers), status)
                remedy = "See the server's own log." if status != 429 else "Lower `concurrency`, or ask later."
                asked_s = _retry_after_s(headers.get("Retry-After", ""))
                if asked_s > MOST_RETRY_AFTER_S:
                    raise TeacherError(f"{problem}; it asks to wait {asked_s:.0f} seconds. {remedy}")
                delay = max(delay, asked_s)
            if attempt < self._retries and stop.wait(delay):
                break
        raise TeacherError(f"{problem}, after {self._retries + 1} attempts. {remedy}")

    def _exchange(self, method: str, path: str, body: Any) -> tuple[int, Any, bytes]:
        try:
            session = self._sessions.pop()
        except IndexError:
            session = requests.Session()
            session.trust_env = not self._is_loopback  # no proxy leads to this machine
        deadline = time.monotonic() + self._timeout_s
        with session.request(
            method,
            self.url + path,
            json=body,
            auth=self._auth,
            timeout=self._timeout_s,
            stream=True,
            allow_redirects=False,
        ) as response:
            content = bytearray()
            # requests' time-out starts again with every byte; read1 gives what there is, so that the whole answer has one.
            read = getattr(response.raw, "read1", response.raw.read)
            while chunk := read(2**16, decode_content=True):
                content += chunk
                if time.monotonic() > deadline:
                    raise requests.Timeout(f"the answer was not complete after {self._timeout_s:g} seconds")
                if len(content) > MOST_BYTES:
                    raise TeacherError(f"{self.url}{path} answers with more than {MOST_BYTES} bytes. Lower `top_k`.")
        self._sessions.append(session)
        return response.status_code, response.headers, bytes(content)

    def _json(self, content: bytes, headers: Any, path: str) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            what = f"{headers.get('Content-Type', 'no content type')}, not with JSON: {shown(content)!r}"
            raise TeacherError(
                f"{self.url}{path} answers with {what}. Is the address that of the server itself?"
            ) from None


class _BearerToken(AuthBase):
    """Also without a key: with a request that has no `auth`, requests would send what ~/.netrc has for the host."""

    def __init__(self, key: str | None):
        self._key = os.environ.get("VLLM_API_KEY", "").strip() if key is None else key
        if not re.fullmatch(r"[\x21-\x7e]*", self._key):
            raise ValueError(
                "`api_key` (or VLLM_API_KEY) must be of visible ASCII characters without spaces; got others."
            )

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _parts(url: str) -> tuple[str, HTTPBasicAuth | None, bool]:
    """The address as it may be shown, the user in it, and whether it is this machine."""
    without_user = url.rpartition("@")[2] if isinstance(url, str) else url
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        _ = parts.port
    except ValueError as error:
        raise ValueError(
            f"`url` must be an address such as http://127.0.0.1:8000; got {without_user!r}: {error}."
        ) from None
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ValueError(f"`url` must be an address such as http://127.0.0.1:8000; got {without_user!r}.")
    credentials = None
    if parts.username is not None:
        credentials = HTTPBasicAuth(unquote(parts.username), unquote(parts.password or ""))
    path = parts.path.rstrip("/").removesuffix("/v1")  # OpenAI's clients want an address that ends in /v1
    clean = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    return clean, credentials, is_loopback


def _remedy(status: int, headers: Any) -> str:
    if 300 <= status < 400:
        target = urlsplit(headers.get("Location", ""))
        place = urlunsplit((target.scheme, target.netloc.rpartition("@")[2], target.path, "", "")) or "nowhere"
        return f"It sends on to {place}, which is not followed: give that server's address."
    if status in (401, 403):
        return "Set `api_key`, or the environment variable VLLM_API_KEY, to the server's key."
    if status == 404:
        return "Is `model` a name that the server has (see its /v1/models), and is it a server of vLLM's protocol?"
    return "The request is not repeated: it would be refused again."


def _retry_after_s(text: str) -> float:
    """Of the header Retry-After: seconds, or a date; 0 where it says nothing."""
    if re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def _message(content: bytes, headers: Any) -> str:
    """What a server says of an error, in the form of OpenAI, of earlier vLLM, or of FastAPI."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return f"({headers.get('Content-Type', 'no content type')}) {shown(content)}"
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return shown(found).rstrip(".")


def _reason(error: BaseException) -> str:
    """The innermost cause: what the system says, without the layers of urllib3."""
    while True:
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((part for part in error.args if isinstance(part, BaseException)), None)
        if inner is None:
            return shown(error) or type(error).__name__
        error = inner


def shown(value: Any) -> str:
    """What others have written, in one line of bounded length."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text).strip()
    return text if len(text) <= 300 else text[:297] + "..."
