"""Resumes a search that was cut off, from its folder.

python -m mistral_ner.hyperopt.resume                    the newest in multirun/
python -m mistral_ner.hyperopt.resume multirun/STUDY
python -m mistral_ner.hyperopt.resume multirun/STUDY --ray-address HOST:PORT    in another Ray than before
python -m mistral_ner.hyperopt.resume s3://BUCKET/FOLDER/STUDY    on another machine, from its mirror, in multirun/
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mistral_ner.config.mirror import is_url
from mistral_ner.errors import UserError, show_user_errors
from mistral_ner.garbage import collect_rarely
from mistral_ner.hyperopt.mirror.fetch import fetch
from mistral_ner.hyperopt.study.opening import find_newest, read_saved_plan


def main() -> None:
    """Resume the study that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", help="a study's folder or mirror; left out, the newest in multirun/")
    parser.add_argument("--ray-address", help="the Ray to join in place of the study's own; null starts one here")
    arguments = parser.parse_args()
    collect_rarely()
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(levelname)s] %(message)s")
    with show_user_errors():
        resume(arguments.study or find_newest(Path("multirun")), arguments.ray_address)


def resume(study: str | Path, ray_address: str | None = None) -> None:
    """Resume a study with the settings saved in its folder.

    Args:
        study: the folder, or the URL of its mirror, from which it is brought to ``multirun``.
        ray_address: the Ray to join: another one than before, or ``null`` for a private one; None: as before.

    Raises:
        UserError: there is none, its folder was renamed, or another process leads it; the mirror cannot be used.
    """
    from mistral_ner.hyperopt.dispatch import search

    mirror = str(study).rstrip("/").rpartition("/")[0] if is_url(str(study)) else None
    folder = Path(study).absolute() if mirror is None else fetch(str(study), Path("multirun").absolute())
    if not (folder / "config.yaml").exists():
        raise UserError(f"no study in {folder}: it has no config.yaml; fix: name the folder of a search")
    config = read_saved_plan(folder).config
    if config.hyperopt.study_name != folder.name:
        name = config.hyperopt.study_name
        raise UserError(f"the folder of study {name!r} must bear its name, found {folder.name}; fix: mv it to {name}")
    config.hyperopt.resume = True
    config.hyperopt.mirror = mirror or config.hyperopt.mirror
    if ray_address is not None:
        config.hyperopt.ray_address = None if ray_address == "null" else ray_address
    search(config)


if __name__ == "__main__":
    main()
