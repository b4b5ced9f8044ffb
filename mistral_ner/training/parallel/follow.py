"""What the other processes of a training run: ``python -m mistral_ner.training.parallel.follow``, started by the first.

It is told in one line of JSON on standard input what to train, and ends when that input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from mistral_ner.config.check import check
from mistral_ner.garbage import collect_rarely


def main() -> None:
    """Train as the first process says."""
    collect_rarely()  # before the libraries are imported
    import torch

    from mistral_ner.model.cpu.products import wide_products
    from mistral_ner.training.fit import follow
    from mistral_ner.training.memory import OutOfMemoryError
    from mistral_ner.training.parallel.ranks import OUT_OF_MEMORY, Ranks, threads_of_each

    told: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    config = check(told["config"])
    config = replace(config, tracking=replace(config.tracking, report_to="none"))
    torch.set_num_threads(threads_of_each(config))
    start = Path(told["start"]) if told["start"] else None
    try:
        ranks = Ranks(told["rank"], told["count"], Path(told["store"]))
        with wide_products():
            follow(config, ranks, told["at_once"], start)
        ranks.close()
    except OutOfMemoryError as error:
        sys.exit(f"{OUT_OF_MEMORY}{error}")


def _end_with_the_first() -> None:
    sys.stdin.read()
    os._exit(1)  # its files are the first one's


if __name__ == "__main__":
    main()
