"""Sweeps that reproduce the figures of arXiv 2206.05794: many trainings, with the rank of every matrix recorded.

A configuration is read and run by `sweeps`. A trial is made of `data`, a network of `networks`, and `training`;
`engines` run trials in other processes, `records` keep what came out, `sinks` send it to trackers of experiments, and
`reports` draw it. `analyze` prints what is in checkpoints of other trainings. The command line is the way in: `cli`,
with the `commands`.
"""
