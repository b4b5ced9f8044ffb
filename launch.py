"""Compose ``conf/`` into one config and hand it over.

python launch.py                         train one model
python launch.py hyperopt=combined -m    search for the best one
"""

import hydra
from omegaconf import DictConfig

import mistral_ner.hyperopt.plugins  # noqa: F401  registers the Ray Tune engine with Hydra


@hydra.main(config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    from mistral_ner.run import run  # late: --help and --cfg need no torch

    return run(cfg)


if __name__ == "__main__":
    main()
