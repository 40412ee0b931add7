"""The entry point of `python -m kd_jax.train`, the same as `python -m kd_jax train`."""

import sys

from kd_jax.core.stop import end_on_signals

if __name__ == "__main__":
    end_on_signals()

    from kd_jax.commands.train import main

    sys.exit(main())
