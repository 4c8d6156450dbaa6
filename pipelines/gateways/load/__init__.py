"""How load is sent.

sending    one stage: each request when it is due, whether or not earlier ones were answered
wire       what sending knows of a protocol
http_wire  requests over HTTP/1.1
grpc_wire  requests over gRPC
exact      an event loop that wakes on time
progress   what is told while it runs
"""
