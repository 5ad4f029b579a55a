"""Where columns come from: the graph of all columns (`graph`), how it is drawn (`picture`), how Dagster shows it (`metadata`).

Everything here is static: it is read from the contracts and the `.sql` files, and needs no lake. Where a single row
comes from is `bronze.trace`.
"""
