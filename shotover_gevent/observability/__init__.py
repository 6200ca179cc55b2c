"""What operators see: metrics, health pages and the log filter, over HTTP."""
