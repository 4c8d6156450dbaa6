"""What ships inside the service. Nothing here imports from `pipelines`, and no torch, MLflow or Dagster.

contract    the model's inputs and outputs: encoding and validation, online and in batch
manifest    what is packed beside model.onnx
engine      the ONNX Runtime session
schema      the JSON of requests and answers, derived from the contract
service     the BentoML service
"""
