"""What the server costs, measured on the real thing: `python -m benchmarks`."""
