"""A client of the service's /predict, for comparing its answers with the model's."""

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


class HttpClient(Client):
    """The real one: one POST, JSON both ways."""

    def predict(self, url: str, rows: Sequence[Mapping]) -> list[dict]:
        body = json.dumps({"rows": list(rows)}).encode()
        request = urllib.request.Request(f"{url}/predict", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            detail = error.read(500).decode(errors="replace")
            raise ServiceFailed(url, f"answered {error.code}: {detail}") from error
        except urllib.error.URLError as error:
            raise ServiceFailed(url, f"does not answer ({error.reason})") from error
