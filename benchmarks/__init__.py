"""The same work, asked of greenhttp and its peers side by side. Run `python -m benchmarks`."""
