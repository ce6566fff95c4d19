"""Decides. `plan.plan(job, seen, now)` is the whole life of a job; every other file here is one stage of it.

Pure and total: no cluster, no files, no clock, no chance. The time is an argument; the world is in `observed.Seen`.
"""
