"""Trains what a config describes, and goes on where a killed run stood.

python -m kd_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

`--config=FILE.py:ARGUMENT` hands the config its argument, `--config.data.batch_size=128` changes a
value. On several hosts the same command with `--multihost` is started on each.
"""

import sys

from ml_collections import config_flags

from kd_jax import cli, report
from kd_jax.pipeline import Run

_EXAMPLE = "python -m kd_jax.train --config=configs/quickstart.py --workdir=runs/quickstart"


def main() -> int:
    """Runs the command line; returns the exit code."""
    command = cli.Command(__doc__, _EXAMPLE)
    config = config_flags.DEFINE_config_file(
        "config",
        help_string="Config file, as FILE.py or FILE.py:ARGUMENT.",
        flag_values=command.values,
    )
    workdir = command.string("workdir", None, "Folder of the run: a path or gs://...")
    multihost = command.boolean("multihost", False, "Join the processes of a pod or a cluster.")

    def train() -> None:
        command.require(config, workdir)
        if multihost.value:
            cli.start_processes()
        summary = Run(cli.config_dict(config), workdir.value).run()
        print(report.table(summary))
        print(f"results.json, report.md and curves.png lie in {workdir.value}")

    return command.run(train)


if __name__ == "__main__":
    sys.exit(main())
