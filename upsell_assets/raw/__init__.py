"""What landed in the object store: listed, validated, and written down in the ledger.

Here: which files there are (`landing`), whether one is accepted and what it says (`files`), how those of other
producers become such (`formats`, `dms`, `debezium`), which full loads there are (`loads`), and what was already taken
in (`ledger`). Not here: our own producer of files (`capture`) and what they do to a table (`bronze`).
"""
