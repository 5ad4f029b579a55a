"""Plots of the tables, drawn once a day: how a table grew and was behind, how features are spread, churn over time.

Here: what is drawn (`history`, `plots`) and when (`assets`). Not here: plots that belong to one run, such as those of a
training or of a dtRef's scores (`model`).
"""
