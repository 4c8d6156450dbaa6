"""The BentoML service of one release: `/predict`, typed by the contract of the model it was built for, and
the Open Inference Protocol beside it.

The release is a model in BentoML's store, named by the bento argument `release`; `bentoml build --arg` writes
it into the bento, which gives it back whenever the bento is loaded. Everything else comes from the manifest
in that model's folder, and what concerns one installation from the environment (see `settings`).
"""

from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.exceptions import BentoMLException
from bentoml.models import BentoModel
from bentoml.validators import ContentType
from pydantic import BaseModel, ConfigDict, Field

from bentos.errors import Refusal
from bentos.http.asgi import Middleware
from bentos.http.front import Front
from bentos.http.lane import Lane
from bentos.lifecycle import drain_first, replace_dead_workers_soon
from bentos.manifest import Manifest
from bentos.openapi import completed
from bentos.release import Release
from bentos.schema import prediction_type, predictions, row_type
from bentos.settings import Settings
from bentos.watching import logs


class Arguments(BaseModel):
    release: str = Field(description="The release's tag in BentoML's model store.")


RELEASE = bentoml.use_arguments(Arguments).release
FOLDER = Path(bentoml.models.get(RELEASE).path)
MANIFEST = Manifest.load(FOLDER)
CONTRACT, PLAN = MANIFEST.contract, MANIFEST.plan

Row, Prediction = row_type(CONTRACT), prediction_type(CONTRACT)
# Naming the content type spares BentoML from building the schema again for every answer.
Predictions: Any = Annotated[list[Prediction], ContentType("application/json")]  # pyright: ignore


class Request(bentoml.IODescriptor):
    """Rows to predict."""

    model_config = ConfigDict(extra="forbid")

    rows: list[Row] = Field(min_length=1, description="Answered in this order.")  # pyright: ignore


@bentoml.service(
    workers=PLAN.workers,
    threads=1,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    tracing={"sample_rate": 0.0, "excluded_urls": ".*"},
    http={"cors": {"enabled": False}},
    envs=[{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
)
class Predictor:
    """Predictions of one model release."""

    release = BentoModel(RELEASE)

    def __init__(self) -> None:
        """Load and warm up; nothing is answered, /readyz included, before this returns."""
        settings = Settings.from_environment()
        logs.install(MANIFEST, settings)
        self._release = Release(FOLDER, MANIFEST, settings)
        Lane.read_seconds = settings.read_seconds
        page = completed(Predictor.openapi_spec.asdict(), MANIFEST)
        Middleware.front = Lane.front = Front(self._release, page)

    @bentoml.on_startup
    async def start(self) -> None:
        await self._release.start()
        Lane.keep_sweeping()
        drain_first(self._release.unready, PLAN.drain_seconds)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        await self._release.close()

    @bentoml.api(input_spec=Request)
    async def predict(self, rows: list[Any]) -> Predictions:  # pyright: ignore[reportInvalidTypeForm]
        """Predict each row. One object comes back for each, in the order of `rows`."""
        try:
            return predictions(await self._release.answer(rows))
        except Refusal as refusal:
            raise BentoMLException(str(refusal), error_code=HTTPStatus(refusal.status)) from refusal

    def __is_ready__(self) -> bool:
        return self._release.is_ready


Lane.install()
replace_dead_workers_soon()
Predictor.add_asgi_middleware(Middleware)  # pyright: ignore[reportArgumentType]: a class, typed as an instance
