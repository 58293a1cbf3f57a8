"""Benchmarks: `python -m benchmarks STEM`. Not installed."""
