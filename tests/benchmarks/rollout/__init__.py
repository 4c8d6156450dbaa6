"""Rollouts: what they let through before they are stopped.

    worlds     two releases and their traffic, simulated second by second
    windows    the policy that most tools have: fixed thresholds, an interval and a failure limit
    detection  false alarms when watched each second, and how many requests a bad canary gets

`python -m tests.benchmarks.rollout --help` runs it.
"""

from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
