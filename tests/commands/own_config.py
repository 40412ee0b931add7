"""A config file in which every part is the user's own: see `own_parts`."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    network = {"name": "own_network", "options": {"hidden": 3}}
    common = {
        "optimizers": {"default": {"name": "sgd", "learning_rate": 0.1}},
        "epochs": 1,
        "evaluators": {"own": {"name": "own_evaluator", "value": 0.25}},
    }
    return ConfigDict(
        {
            "experiment": "own",
            "data": {"source": {"name": "own_source"}, "batch_size": 8, "eval_batch_size": 8},
            "stages": {
                "teacher": {
                    "networks": {"student": network},
                    "method": {
                        "name": "supervised",
                        "loss": "own_loss",
                        "options": {"factor": 2.0},
                    },
                    **common,
                },
                "student": {
                    "networks": {"student": network, "teacher": {"init_from": "teacher"}},
                    "method": {"name": "own_method"},
                    **common,
                },
            },
        }
    )
