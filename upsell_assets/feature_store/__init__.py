"""The feature store: one query a feature table, answered for any set of dtRefs at once.

Here: the `fs_*` queries over silver, and the internal views (`_*.sql`) that they share. Windows are ranges of
local days of America/Sao_Paulo before dtRef; nothing of dtRef itself or later is seen.
"""
