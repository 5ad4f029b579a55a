"""Bronze: the latest row of each key, as a function of the set of changes received.

Here: the law (`law`), its application to Delta tables (`merge`: finding rows in `probe`, replacing files in `write`),
and taking in what landed (`ingest`). Not here: what a file must look like (`raw`) and what columns mean (`silver`).
"""
