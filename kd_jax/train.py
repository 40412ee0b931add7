"""Trains what a config describes, and goes on where a killed run stood.

python -m kd_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

`--config=FILE.py:ARGUMENT` hands the config its argument, `--config.data.batch_size=128` changes a
value. On several hosts the same command with `--multihost` is started on each.
"""

import sys

from absl import flags
from ml_collections import config_flags

from kd_jax import cli, report
from kd_jax.errors import UsageError
from kd_jax.pipeline import Run


def main() -> int:
    """Runs the command line; returns the exit code."""
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", help_string="Config file, as FILE.py or FILE.py:ARGUMENT.", flag_values=values
    )
    workdir = flags.DEFINE_string(
        "workdir", None, "Folder of the run: a path or gs://...", flag_values=values
    )
    multihost = flags.DEFINE_bool(
        "multihost", False, "Join the processes of a TPU pod or a cluster.", flag_values=values
    )
    wants_help = flags.DEFINE_bool("help", False, "Show this text.", flag_values=values)

    def train() -> None:
        cli.parse(values)
        if wants_help.value:
            print(__doc__, values.main_module_help(), sep="\n")
            return
        for flag in (config, workdir):
            if not flag.value:
                raise UsageError(
                    f"--{flag.name} is missing: type for example `python -m kd_jax.train"
                    " --config=configs/quickstart.py --workdir=runs/quickstart`."
                )
        if multihost.value:
            cli.start_processes()
        summary = Run(cli.config_dict(config), workdir.value).run()
        print(report.table(summary))
        print(f"results.json, report.md and curves.png lie in {workdir.value}")

    return cli.command(train)


if __name__ == "__main__":
    sys.exit(main())
