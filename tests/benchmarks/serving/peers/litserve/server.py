"""LitServe with batching. Its fast queue is ZeroMQ in place of multiprocessing's."""

import litserve
from net import BATCH_ROWS, PORT, Net

WAIT_SECONDS = 0.01


class Api(litserve.LitAPI):
    def setup(self, device):
        self.net = Net()

    def decode_request(self, request):
        return request

    def batch(self, inputs):
        return inputs

    def predict(self, rows):
        return self.net.run(rows)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"y": output}


if __name__ == "__main__":
    api = Api(max_batch_size=BATCH_ROWS, batch_timeout=WAIT_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        "127.0.0.1",
        PORT,
        num_api_servers=1,
        api_server_worker_type="thread",
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
