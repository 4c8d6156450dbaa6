from tests.benchmarks.serving.peers.plain import plain

PEER = plain("ray_serve")
