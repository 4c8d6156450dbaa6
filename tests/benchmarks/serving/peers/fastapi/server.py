"""FastAPI, typed. The handler is a coroutine: for so small a model a thread costs more than it saves."""

import uvicorn
from fastapi import FastAPI
from net import PORT, Net
from pydantic import BaseModel

NET = Net()
app = FastAPI(openapi_url=None)


class Row(BaseModel):
    x: list[float]


class Prediction(BaseModel):
    y: float


@app.post("/predict")
async def predict(row: Row) -> Prediction:
    return Prediction(y=NET.run([{"x": row.x}])[0])


uvicorn.run(app, port=PORT, http="httptools", loop="uvloop", access_log=False, log_level="warning")
