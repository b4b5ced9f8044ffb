"""The specification of a search, checked before anything is created: space, plan, faults, capacity."""
