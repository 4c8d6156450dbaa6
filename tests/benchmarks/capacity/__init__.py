"""What is foretold of a plan and what comes of it; the derived plan beside BentoML's defaults."""

from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
