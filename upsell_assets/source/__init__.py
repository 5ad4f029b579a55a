"""The points system: the PostgreSQL database that the lake is fed from.

Here: its three tables (`ddl.sql`), connections and roles (`database`), and the three ways to fill it: dumps (`loader`,
from the files and shapes of `dump_files`, `dump_values` and `dumps`), a seeded history (`simulator`, drawn by
`behaviour`) and activity as it happens (`live`). Not here: how changes leave the database (`capture`), nor the server of
the embedded one (`services`). The tables' meaning is in `contracts`.
"""
