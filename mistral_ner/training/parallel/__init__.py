"""One training in several processes, and several trainings in one."""
