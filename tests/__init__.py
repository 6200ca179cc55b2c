"""The tests: ``unit`` mirrors the package, ``integration`` runs it as a process."""
