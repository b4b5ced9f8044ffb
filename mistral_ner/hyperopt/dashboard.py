"""Open optuna-dashboard on a study, on this machine only; a running study is fine.

python -m mistral_ner.hyperopt.dashboard                    the newest in multirun/
python -m mistral_ner.hyperopt.dashboard multirun/STUDY
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from mistral_ner.errors import UserError, show_user_errors
from mistral_ner.hyperopt.study.opening import find_newest, read_study


def main() -> None:
    """Serve the dashboard of the study that the command line names, until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path, help="a study's folder; left out, the newest in multirun/")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    with show_user_errors():
        serve(arguments.study or find_newest(Path("multirun")), arguments.port)


def serve(folder: Path, port: int) -> None:
    """Serve the dashboard on 127.0.0.1.

    Raises:
        UserError: there is no study in ``folder``, or the ``dashboard`` extra is not installed.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise UserError("the dashboard needs optuna-dashboard; fix: pip install -e '.[dashboard]', or make dashboard")
    from optuna_dashboard import run_server

    storage = read_study(folder).storage
    print(f"http://127.0.0.1:{port}/dashboard", flush=True)
    run_server(storage, host="127.0.0.1", port=port)


if __name__ == "__main__":
    main()
