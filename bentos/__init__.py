"""What ships inside the service. Nothing here imports from `pipelines`, and no torch, MLflow or Dagster.

    service     the BentoML service: the top of it all
    release     one release, loaded: what every way in asks
    http/       /predict and the Open Inference Protocol over HTTP
    inference/  that protocol itself, its gRPC server, tokenizers
    batching/   the adaptive batcher
    engines/    the model in ONNX Runtime, on a CPU or a GPU
    guarding/   circuit breaker, fallback, prediction cache
    watching/   metrics, logs, traces, prediction log
    openapi     the OpenAPI page
    lifecycle   draining before the end; dead workers replaced soon
    settings    what an installation decides; the only reader of the service's environment
    manifest    what is packed beside model.onnx: contract, plan, promise, digests
    contract    the model's inputs and outputs: encoding and validation, online and in batch
    schema      the JSON of requests and answers, derived from the contract
    work        one request's rows on their way to the model and back
    errors      why a request gets no prediction, as a tree

A request: `http.lane` parses it, `http.front` knows what it is, `release` asks the cache and the circuit
breaker, `batching` lets it share a run of an engine, and the answer goes back the same way, by callbacks.
"""
