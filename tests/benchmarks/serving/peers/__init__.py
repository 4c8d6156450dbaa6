"""Who serves the same model beside us, each at the best settings that its documents name.

ours       `bentoml serve` of a bento as the pipeline builds it
bentoml    BentoML's own batchable API, typed
litserve   LitServe, batching, with its fast queue
mosec      mosec, dynamic batching
mlserver   MLServer, adaptive batching, without its pool of processes
ray_serve  Ray Serve, @serve.batch, tuned for throughput
fastapi    FastAPI on uvicorn, httptools and uvloop; no batcher
triton     Triton's own server, its Python backend on ONNX Runtime, dynamic batching
bare       uvicorn and orjson, an ASGI handler and nothing else; no batcher
"""

from importlib import import_module

from tests.benchmarks.harness.peers import Peer

NAMES = ("ours", "bentoml", "litserve", "mosec", "mlserver", "ray_serve", "fastapi", "triton", "bare")


def peer(name: str) -> Peer:
    """One of NAMES."""
    return import_module(f"{__name__}.{name}").PEER
