"""A packed model behind the standard library's HTTP server: real answers, no BentoML, up in half a second.

Run as `python model_service.py FOLDER PORT`, where FOLDER holds model.onnx and manifest.json.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bentos.engines.engine import Engine
from bentos.manifest import Manifest, verified_model
from bentos.schema import columns, predictions


class Handler(BaseHTTPRequestHandler):
    manifest: Manifest
    engine: Engine

    def do_GET(self) -> None:
        self._answer(b"\n")

    def do_POST(self) -> None:
        rows = json.loads(self.rfile.read(int(self.headers["content-length"])))["rows"]
        outputs = self.engine.predict(columns(self.manifest.contract, rows))
        self._answer(json.dumps(predictions(outputs)).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("x-model-version", self.manifest.version)
        self.send_header("x-release-id", self.manifest.release_id)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    Handler.manifest = Manifest.load(folder)
    Handler.engine = Engine(verified_model(folder, Handler.manifest), Handler.manifest.contract)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
