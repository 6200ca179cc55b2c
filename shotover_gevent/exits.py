"""Exit codes of the command: 75 and 78 are ``EX_TEMPFAIL`` and ``EX_CONFIG`` of sysexits(3)."""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_RELOAD = 75
EXIT_CONFIG = 78
