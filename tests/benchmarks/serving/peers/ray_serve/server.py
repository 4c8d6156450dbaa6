"""Ray Serve with @serve.batch, and the settings its documents name for throughput."""

import os
import signal

os.environ |= {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"}

import ray
from net import BATCH_ROWS, PORT, Net
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=4 * BATCH_ROWS, ray_actor_options={"num_cpus": 1})
class Model:
    def __init__(self) -> None:
        self.net = Net()

    @serve.batch(max_batch_size=BATCH_ROWS, batch_wait_timeout_s=0.001)
    async def run(self, rows: list) -> list:
        return self.net.run(rows)

    async def __call__(self, request: Request) -> dict:
        return {"y": await self.run(await request.json())}


if __name__ == "__main__":
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level="error",
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["NET_SCRATCH"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT, "access_log": False})
    serve.run(Model.bind(), route_prefix="/predict")
    signal.signal(signal.SIGTERM, lambda *_: ray.shutdown())
    signal.pause()
