"""The load generator beside k6: what a request costs whoever sends it.

    generators  ours and k6, told to send the same requests at the same rate
    target      a server that costs next to nothing
    script.js   what k6 runs

`python -m tests.benchmarks.load --help` runs it. k6 is found by PATH, or by the variable K6.
"""

from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
