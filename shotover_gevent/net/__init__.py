"""Sockets: addresses, listeners, streams, dialling, passing descriptors."""
