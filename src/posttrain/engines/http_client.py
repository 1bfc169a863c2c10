"""JSON over HTTP to one server, with bounded retries. The standard library alone."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from posttrain.config import EndpointConfig
from posttrain.engines.secrets import check_secrets, key_for
from posttrain.errors import EndpointError, ServerLost

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may be answered."""

_EXCERPT = 300
"""Characters of an answer that an error shows."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two tries; each pause is twice the one before."""


class RequestRefused(EndpointError):
    """A server answers a request with an error.

    Args:
        status: of HTTP. detail: what the server says.
    """

    def __init__(self, message: str, status: int, detail: str) -> None:
        super().__init__(message)
        self.status, self.detail = status, detail


class JsonClient:
    """Requests to one server. Each has a connection of its own, so that any thread may send one.

    Connections that fail and statuses that may pass (408, 409, 425, 429, 500, 502 to 504) are
    tried again, `max_retries` times in all. A server that does not answer in time is not asked
    again: it would be given the same work twice.

    Args:
        url: of the server, without a path behind it. timeout: seconds for one answer.
        key_variable: environment variable that holds the key.
        is_alive: whether it makes sense to try again. section: of the recipe, for messages.

    Raises:
        ConfigError: a secret in the url, or a key that is not for this host.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 600.0,
        max_retries: int = 3,
        key_variable: str = "VLLM_API_KEY",
        is_alive: Callable[[], bool] = lambda: True,
        section: str = "engine",
    ) -> None:
        endpoint = EndpointConfig(url, "", key_variable=key_variable)
        check_secrets(endpoint, section)
        self.url = url.rstrip("/")
        self.timeout, self.max_retries = timeout, max_retries
        self._is_alive, self._section = is_alive, section
        self._key = key_for(endpoint, section)
        parts = urlsplit(self.url)
        self._secure, self._host, self._prefix = parts.scheme == "https", parts.netloc, parts.path

    def get(
        self, path: str, *, timeout: float | None = None, max_retries: int | None = None
    ) -> Any:
        """The answer to a GET request; None where it is empty or no JSON.

        Raises:
            ServerLost, RequestRefused: as `post`.
        """
        return self._call("GET", path, None, timeout, max_retries)

    def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
    ) -> Any:
        """The answer to a POST request; None where it is empty or no JSON.

        Raises:
            ServerLost: no connection after all tries, or no answer in time.
            RequestRefused: the server answers with an error.
        """
        return self._call("POST", path, body or {}, timeout, max_retries)

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout: float | None,
        max_retries: int | None,
    ) -> Any:
        tries = 1 + (self.max_retries if max_retries is None else max_retries)
        pause = _FIRST_PAUSE
        for number in range(1, tries + 1):
            is_last = number == tries or not self._is_alive()
            try:
                status, text = self._once(method, path, body, timeout or self.timeout)
            except TimeoutError as error:
                raise ServerLost(
                    f"{method} {self.url}{path}: no answer within "
                    f"{timeout or self.timeout:g} seconds; raise {self._section}.timeout if the "
                    "server is only slow",
                    self.url,
                ) from error
            except (OSError, http.client.HTTPException) as error:
                if is_last:
                    raise ServerLost(
                        f"{method} {self.url}{path}: no connection after {number} tries "
                        f"({type(error).__name__}: {error}); look at {self._section}.url, and at "
                        "the server's log",
                        self.url,
                    ) from error
            else:
                if status < 400:
                    return _parsed(text)
                if is_last or status not in _PASSING:
                    raise self._refused(method, path, status, text)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("the last try returns or raises")

    def _once(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float
    ) -> tuple[int, str]:
        """Status and text of one try."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, timeout=timeout)
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, self._prefix + path, body=data, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def _refused(self, method: str, path: str, status: int, text: str) -> RequestRefused:
        detail = " ".join((text.replace(self._key, "[key]") if self._key else text).split())
        detail = detail[:_EXCERPT] or "nothing"
        return RequestRefused(
            f"{method} {self.url}{path}: status {status}, and the server says: {detail}",
            status,
            detail,
        )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
