"""The Open Inference Protocol, and texts.

tensors      one tensor of the protocol, as raw bytes or as values
asked        what a request asks, checked against the contract
protocol     the protocol over HTTP: JSON, and raw bytes behind it
protobuf     the protocol as Protobuf messages
grpc_server  the gRPC server
tokens       the tokenizer packed beside a model of texts
"""
