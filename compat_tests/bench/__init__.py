"""Benchmarks: contenders side by side in one run, printed as medians, ranges and ratios."""
