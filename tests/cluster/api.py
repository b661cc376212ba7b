"""Reading from the API server without starting a process: waits ask many times a second."""

import json
import ssl
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import yaml

TIMEOUT = 60.0  # seconds, one answer


class ApiError(OSError):
    """The API server's refusal, or a server that does not answer properly."""

    def __init__(self, method: str, path: str, status: int, message: str) -> None:
        super().__init__(f"{method} {path}: {status}: {message}")
        self.status = status  # HTTP


class Api:
    def __init__(self, server: str, ca: str, token: str) -> None:
        """`server`: an https:// address without a path. `ca`: certificate, PEM."""
        self.server = server
        self._token = token
        context = ssl.create_default_context(cadata=ca)
        # The cluster is on this machine: a proxy of the environment is never in between.
        self._opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))

    @classmethod
    def from_kubeconfig(cls, path: Path) -> "Api":
        """For a file that users.write_kubeconfig wrote."""
        content = yaml.safe_load(path.read_text())
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
        return cls(cluster["server"], b64decode(cluster["certificate-authority-data"]).decode(), user["token"])

    def text(self, path: str, **query: str | int) -> str:
        """GET. Raises ApiError for a refusal, OSError when nothing answers."""
        return self._call("GET", path + (f"?{urlencode(query)}" if query else ""), None)

    def get(self, path: str, **query: str | int) -> dict[str, Any]:
        """GET of one object or list, e.g. get("/api/v1/namespaces/default/pods", labelSelector="a=b")."""
        return self._object(self.text(path, **query))

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST of one object to its collection's path."""
        return self._object(self._call("POST", path, body))

    def watch(self, path: str, *, seconds: int, **query: str | int) -> Iterator[tuple[str, dict[str, Any]]]:
        """ADDED, MODIFIED, DELETED and the object, as they come, for `seconds`; first what is there as ADDED."""
        asked = urlencode({**query, "watch": "true", "timeoutSeconds": seconds})
        with self._opener.open(self._request("GET", f"{path}?{asked}", None), timeout=seconds + TIMEOUT) as lines:
            for line in lines:
                event = self._object(line)
                yield event["type"], event["object"]

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Request:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        return Request(self.server + path, data=data, headers=headers, method=method)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> str:
        request = self._request(method, path, body)
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return str(answer.read().decode(errors="replace"))
        except HTTPError as error:
            raise ApiError(method, path, error.code, _message(error.read().decode(errors="replace"))) from None

    @staticmethod
    def _object(text: str | bytes) -> dict[str, Any]:
        answer = json.loads(text)
        assert isinstance(answer, dict), "the API server answers with JSON objects"
        return answer


def _message(body: str) -> str:
    """A Status object's message, or the text as it came (/readyz answers with plain text)."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip()
