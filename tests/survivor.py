"""How pytest-xdist shares tests out, and how it goes on after one of its workers has died.

The tests of a file that share what is made once for the file run in one worker. pytest-xdist 3.8 names such groups in
the ids of tests, which pytest 9.2 does not let it change: each worker made everything.

Ray ends the process that a search runs in where its own server is gone for long. pytest-xdist 3.8 then runs the same
test again and again, and ends in an internal error.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
# what is made once for a file
SHARED = ("ray_for_all", "running_ray", "network", "cluster", "finished", "ended", "found", "model", "page")
_TAKEN = re.compile(rf"""def \w+\([^)]*\b({"|".join(SHARED)}): |usefixtures\("({"|".join(SHARED)})"\)""")


@functools.cache
def _shares(file: str) -> bool:
    """Whether the tests of a file share something: unit tests, and those that take one of the fixtures above."""
    return file.startswith("tests/unit/") or _TAKEN.search((ROOT / file).read_text(encoding="utf-8")) is not None


class Survivor(LoadScopeScheduling):
    """Keeps tests together that share something, and gives those of a dead worker to another one.

    The test that a worker died of is run once more, then no more.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._died_of: set[str] = set()

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if _shares(file) else nodeid

    def remove_node(self, node: Any) -> str | None:
        """Take ``node`` out and return the test it died of, or None where it had nothing left to run."""
        units = {scope: unit for scope, unit in self.assigned_work.pop(node).items() if not all(unit.values())}
        if not units:
            return None
        unit = next(iter(units.values()))
        crashed: str = next(test for test, completed in unit.items() if not completed)
        unit[crashed] = crashed in self._died_of
        self._died_of.add(crashed)
        self.workqueue.update({scope: unit for scope, unit in units.items() if not all(unit.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed

    def mark_test_pending(self, item: str) -> None:  # type: ignore[override]
        """Agree to a second try, which :meth:`remove_node` has arranged."""
