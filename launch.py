"""Compose ``conf/`` into one config and hand it over.

python launch.py                         train one model
python launch.py hyperopt=combined -m    search for the best one
"""

import hydra
from omegaconf import DictConfig

import mistral_ner.hyperopt.sweepers  # noqa: F401  registers the Ray Tune engine with Hydra
from mistral_ner.config.hydra_errors import show_composition_errors
from mistral_ner.garbage import collect_rarely

# what a config may name to be run: a config file that somebody else wrote cannot run anything but this
RUNNABLE = ["mistral_ner.hyperopt.sweepers.*", "hydra._internal.core_plugins.*", "hydra_plugins.*"]


@hydra.main(config_path="conf", config_name="config", execution_whitelist=RUNNABLE)
def main(cfg: DictConfig) -> float:
    from mistral_ner.run import run  # late: --help and --cfg need no torch

    return run(cfg)


if __name__ == "__main__":
    collect_rarely()
    with show_composition_errors():
        main()
