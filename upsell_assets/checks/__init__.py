"""Checks that run by the clock, and what they find: they look at whole tables, which no run should wait for.

Here: bronze against the database and features as served against those of now (`compared`), and the daily audit of all
tables (`audit`): unique keys, sums between the layers (`reconciliation`), raw against bronze (`accepted`), and rows
against a table's own past (`volume`). Not here: what is looked at whenever a run writes (`lake.checks`, the `assets`).
"""
