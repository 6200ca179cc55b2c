"""Sources: a listener, the codec of its clients, and the sessions that run their chains."""
