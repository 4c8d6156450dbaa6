"""The service beside its peers, on the same models.

    scenarios how each of the following is run and kept
    nets      the models
    kit       what runs in the peers' environments: the session that all of them share
    peers     the servers
    tiny      one row of a tiny model, JSON: CPU time per request
    binary    tensors as bytes beside numbers as JSON
    overload  twice and five times what a server can do: what it still answers in time
    texts     MiniLM with texts of many lengths: the load it can take within its objective
    batcher   the batcher alone, beside BentoML's

`python -m tests.benchmarks.serving --help` runs one part of it.
"""

from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
