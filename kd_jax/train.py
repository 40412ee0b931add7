"""The entry point of `python -m kd_jax.train`, the same as `python -m kd_jax train`."""

import sys

from kd_jax.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
