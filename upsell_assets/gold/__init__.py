"""Gold: the reports, one query each, answered for any set of dtRefs at once.

Here: the report queries over silver, and the internal view that they share. Windows are ranges of local days of
America/Sao_Paulo that end with dtRef, included.
"""
