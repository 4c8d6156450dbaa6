"""mosec: a Rust front, the model in a process of its own, batches formed in the front."""

import sys

import orjson
from mosec import Server, Worker
from net import BATCH_ROWS, PORT, Net

WAIT_MS = 10  # its default; a batch that is full leaves at once


class Model(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def deserialize(self, data: bytes):
        return orjson.loads(data)

    def serialize(self, data) -> bytes:
        return orjson.dumps({"y": data})

    def forward(self, data: list) -> list:
        return self.net.run(data)


if __name__ == "__main__":
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(PORT), "--log-level", "warning"]
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=BATCH_ROWS, max_wait_time=WAIT_MS, route="/predict")
    server.run()
