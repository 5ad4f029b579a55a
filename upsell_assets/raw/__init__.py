"""What landed in the object store: listed, validated, and written down in the ledger.

Here: which files there are (`landing`), whether one is accepted and what it says (`files`), which full loads
there are (`loads`), and what was already taken in (`ledger`). Not here: who produced the files (`capture`) and
what they do to a table (`bronze`).
"""
