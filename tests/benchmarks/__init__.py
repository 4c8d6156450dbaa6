"""Speed, as ratios measured in one run. `make bench` runs these; `make test` does not."""
