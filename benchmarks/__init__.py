"""Corral beside its peers on one machine: `python -m benchmarks` prints the comparison and writes latest.json."""
