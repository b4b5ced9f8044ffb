"""A study in a bucket: a mirror of its folder, which another machine can resume from.

The folder stays the truth, and everything works on it. :mod:`keep` sends what changes, in an order in which the bucket
at any moment holds a study that resumes exactly; :mod:`fetch` brings it back; :mod:`owner` keeps two machines apart.
"""
