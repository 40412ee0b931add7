"""Weights & Biases: the metrics of each stage as a run of a project.

    kd-jax train --config=quickstart --workdir=runs/quickstart --config.hooks.wandb.name=wandb

It needs `pip install wandb` and `wandb login`.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any

from kd_jax.core.errors import UsageError, check_choice, reason
from kd_jax.training.hooks.base import HOOKS, Hook, HookContext, Sink


@HOOKS.register("wandb")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsAndBiases(Hook):
    """One run of Weights & Biases per stage; the stages of an experiment are a group.

    A stage that resumes continues its run.

    Attributes:
        project: name of the project.
        entity: user or team; None is the default of the account.
        mode: `online`, `offline` (files that `wandb sync` sends later) or `disabled`.
    """

    project: str = "kd_jax"
    entity: str | None = None
    mode: str = "online"

    def __post_init__(self):
        super().__post_init__()
        check_choice(self.mode, ("online", "offline", "disabled"), "mode")

    def check(self) -> None:
        """See `Hook`."""
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise UsageError(
                f"wandb cannot be imported ({reason(error)}), which the hook wandb needs: run"
                " `pip install wandb`, or leave the hook out."
            ) from error

    def open(self, context: HookContext) -> Sink:
        """See `Hook`."""
        import wandb

        folder = os.fspath(context.folder)
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            group=context.experiment,
            name=f"{context.experiment}/{context.stage}",
            id=hashlib.sha256(folder.encode()).hexdigest()[:16],
            resume="allow",
            config=dict(context.config),
            dir=None if "://" in folder else folder,
        )
        return _Run(run)


class _Run(Sink):
    """An open run of Weights & Biases."""

    def __init__(self, run: Any):
        self._run = run

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See `Sink`."""
        self._run.finish()
