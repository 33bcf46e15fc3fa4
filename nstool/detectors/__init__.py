"""Detectors: functions that look at the host and the plan and say whether one cause of a refusal holds.

Each takes a Scene and returns True, False, None (this cannot be told), or a dict, which is True with
words for the sentences of the catalogue (nstool/plan/hints.py). They change nothing.
"""
