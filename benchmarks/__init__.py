"""Measurements; their results are in ``benchmarks/results/`` and in the documentation."""
