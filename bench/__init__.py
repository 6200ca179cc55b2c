"""Programs that measure the proxy against real servers; run them as ``python -m bench.NAME``."""
