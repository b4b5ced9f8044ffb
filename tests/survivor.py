"""How pytest-xdist goes on after one of its workers has died.

Ray ends the process that a search runs in where its own server is gone for long. pytest-xdist 3.8 then runs the same
test again and again, and ends in an internal error.
"""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadGroupScheduling


class Survivor(LoadGroupScheduling):
    """Gives the tests of a dead worker to another one: the test it died of once more, then no more."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._died_of: set[str] = set()

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
