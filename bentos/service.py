"""The BentoML service of one release: `/predict`, typed by the contract of the model it was built for.

The release is a model in BentoML's store, named by the bento argument `release`; `bentoml build --arg` writes
it into the bento, which gives it back whenever the bento is loaded. Everything else comes from the manifest
in that model's folder.
"""

import logging
import re
import uuid
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.models import BentoModel
from bentoml.validators import ContentType
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bentos.engine import PROVIDERS, Engine
from bentos.manifest import Manifest, verified_model
from bentos.schema import columns, prediction_type, predictions, row_type


class Arguments(BaseModel):
    release: str = Field(description="The release's tag in BentoML's model store.")


class QuietRefusals(logging.Filter):
    """BentoML logs a traceback for every refused request; the client has been told, the log need not be."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], ValidationError))


class ReleaseHeaders:
    """ASGI middleware: says on every answer which release gave it, and to which request."""

    ACCEPTED_ID = re.compile(rb"[\x21-\x7e]{1,128}")

    def __init__(self, app, version: str, release_id: str) -> None:
        self._app = app
        self._headers = [(b"x-model-version", version.encode()), (b"x-release-id", release_id.encode())]

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if self.ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        added = [*self._headers, (b"x-request-id", request_id)]

        async def send_with_headers(message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


RELEASE = bentoml.use_arguments(Arguments).release
FOLDER = Path(bentoml.models.get(RELEASE).path)
MANIFEST = Manifest.load(FOLDER)
CONTRACT, PLAN = MANIFEST.contract, MANIFEST.plan

Row, Prediction = row_type(CONTRACT), prediction_type(CONTRACT)
# Naming the content type spares BentoML from building the schema again for every answer.
Predictions: Any = Annotated[list[Prediction], ContentType("application/json")]  # pyright: ignore
# BentoML refuses to batch by one.
BATCHING: dict[str, Any] = (
    {"batchable": True, "max_batch_size": PLAN.max_batch_size, "max_latency_ms": PLAN.max_latency_ms}
    if PLAN.max_batch_size > 1
    else {}
)


class Request(bentoml.IODescriptor):
    """Rows to predict."""

    model_config = ConfigDict(extra="forbid")

    rows: list[Row] = Field(min_length=1, description="Answered in this order.")  # pyright: ignore


@bentoml.service(
    workers=1,
    threads=1,
    logging={"access": {"enabled": False}},
    tracing={"sample_rate": 0.0, "excluded_urls": ".*"},
    envs=[{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
)
class Predictor:
    """Predictions of one model release."""

    release = BentoModel(RELEASE)

    def __init__(self) -> None:
        """Load and warm up; BentoML answers nothing, /readyz included, before this returns."""
        self._engine = Engine(
            verified_model(FOLDER, MANIFEST), CONTRACT, PLAN.threads, PROVIDERS[PLAN.device]
        )
        self._engine.warm_up((1, PLAN.max_batch_size))

    @bentoml.api(input_spec=Request, **BATCHING)
    def predict(self, rows: list[Any]) -> Predictions:  # pyright: ignore[reportInvalidTypeForm]
        """Predict each row. One object comes back for each, in the order of `rows`."""
        return predictions(self._engine.predict(columns(CONTRACT, rows)))


Predictor.add_asgi_middleware(
    ReleaseHeaders,  # pyright: ignore[reportArgumentType]: BentoML's protocol types classes as instances
    version=MANIFEST.version,
    release_id=MANIFEST.release_id,
)
logging.getLogger("bentoml._internal.server.http_app").addFilter(QuietRefusals())
