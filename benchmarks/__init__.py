"""Side by side with the alternatives; run one with ``python -m benchmarks.<name>``."""
