"""The entry point of `python -m kd_jax COMMAND` and of the script `kd-jax`."""

import sys

from kd_jax.commands import main

if __name__ == "__main__":
    sys.exit(main())
