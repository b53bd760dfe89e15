"""Build against build: ``python -m benchmarks builds --help``."""
