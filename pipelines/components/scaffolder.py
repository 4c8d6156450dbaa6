"""The scaffolder: `dg scaffold defs pipelines.components.ServedModel churn` writes a filled defs.yaml."""

import dagster as dg
from pydantic import BaseModel, Field


class ServedModelParams(BaseModel):
    """What the scaffolder asks for."""

    registry_uri: str | None = Field(None, description="models:/NAME@ALIAS; default models:/NAME@candidate.")


class ServedModelScaffolder(dg.Scaffolder[ServedModelParams]):
    """Writes the settings that have no default; all others are documented in the component's schema."""

    @classmethod
    def get_scaffold_params(cls) -> type[ServedModelParams]:
        return ServedModelParams

    def scaffold(self, request: dg.ScaffoldRequest[ServedModelParams]) -> None:
        name = request.target_path.name
        uri = request.params.registry_uri or f"models:/{name}@candidate"
        dg.scaffold_component(request, _attributes(name, uri))


def _attributes(name: str, uri: str) -> dict:
    folder = f"data/{name}"
    return {
        "name": name,
        "registry_uri": uri,
        "data": {
            "reference": f"{folder}/reference.parquet",
            "calibration": f"{folder}/calibration.parquet",
            "holdout": f"{folder}/holdout.parquet",
            "label": "label",
            "key": "id",
        },
        "serving": {"path": f"/{name}", "expected_peak_rps": 50, "p99_ms": 100},
        "scoring": {"input": f"{folder}/scoring/{{month}}.parquet", "start": "2026-01"},
    }
