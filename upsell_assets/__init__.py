"""The upsell lakehouse: a loyalty-points database becomes bronze, silver, features and churn scores.

The folders follow the data: source -> capture -> raw -> bronze -> silver -> feature_store, gold -> model.
`lake` holds what every layer stands on; `definitions` assembles the Dagster code location.
"""
