"""``python -m shotover_gevent`` is the command ``shotover-gevent``."""

import sys

from shotover_gevent.cli import main

if __name__ == "__main__":
    sys.exit(main())
