"""The transforms that stand between a source and a sink."""
