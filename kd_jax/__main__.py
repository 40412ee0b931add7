"""The entry point of `python -m kd_jax COMMAND`."""

import sys

from kd_jax.core.stop import end_on_signals

if __name__ == "__main__":
    end_on_signals()

    from kd_jax.commands import main

    sys.exit(main())
