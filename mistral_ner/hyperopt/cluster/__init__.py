"""Connects to Ray, checks its machines, and runs its workers."""
