"""A client of a service: its answers, to compare with the model's, and its own metrics."""

import http.client
import json
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from pipelines.core.errors import ServiceFailed

TIMEOUT_SECONDS = 30


class Client(ABC):
    """Asks a service on its base URL, e.g. http://127.0.0.1:8080."""

    @abstractmethod
    def predict(self, url: str, rows: Sequence[Mapping]) -> list[dict]:
        """The answers to these rows, one {output: value} a row. Raises ServiceFailed for any other answer."""

    @abstractmethod
    def metrics(self, url: str) -> str:
        """The service's own metrics, in Prometheus' text format. Raises ServiceFailed."""


class HttpClient(Client):
    """The real one."""

    def predict(self, url: str, rows: Sequence[Mapping]) -> list[dict]:
        body = json.dumps({"rows": list(rows)}).encode()
        headers = {"content-type": "application/json", "x-timeout-ms": str(TIMEOUT_SECONDS * 1000)}
        request = urllib.request.Request(f"{url}/predict", body, headers)
        return json.loads(self._answer(url, request))

    def metrics(self, url: str) -> str:
        return self._answer(url, urllib.request.Request(f"{url}/metrics")).decode()

    def _answer(self, url: str, request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            detail = error.read(500).decode(errors="replace")
            raise ServiceFailed(url, f"answered {error.code}: {detail}") from error
        except urllib.error.URLError as error:
            raise ServiceFailed(url, f"does not answer ({error.reason})") from error
        except (OSError, http.client.HTTPException) as error:
            raise ServiceFailed(url, f"broke off its answer ({error})") from error
