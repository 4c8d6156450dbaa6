from tests.benchmarks.serving.peers.plain import plain

PEER = plain("bare")
