"""The churn model: labels, training set, training, evaluation, registry, scores.

Here: one SQL file for the label, and plain functions from Arrow tables to Arrow tables. Not here: reading and
writing Delta tables, partitions and runs (the modules that wrap these as assets), nor a business rule of
features (`feature_store`). Preprocessing is fitted in training and saved inside the model; scoring only loads.
"""
