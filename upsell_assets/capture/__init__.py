"""Capture: from the points system's PostgreSQL to raw files, by a snapshot and by logical decoding.

`job.Capture` is what others use. Below it: `setup` (what the database must offer), `full_load` (the snapshot),
`stream` (the changes after it) with `changes` (what each becomes), `pgoutput` (the wire format), `values` (PostgreSQL
text to Arrow) and `landing` (keys, files, manifests and the durable watermark in the lake). Only `assets` knows
Dagster; what becomes of the files is for `raw`.

Every change has one position, `change_seq`: the commit's place in the log and the change's number within its
transaction, as text that sorts likewise. Three orders of writing keep it whole under any crash: files before their
manifest, files before the watermark, the watermark before the slot.
"""
