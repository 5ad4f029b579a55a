"""Delta on the object store: what every layer stands on.

Here: the object store, Delta tables and their data files, the two engines, SQL files, the IO manager. Not here: what any one table
means; layers import this package, it imports no layer.
"""
