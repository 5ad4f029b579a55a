"""Silver: the source's tables under the community's names, typed, with the history of customers.

Here: one query a table. Each sees only bronze (`produtos`: silver's product lines); what is incremental about
silver is not in the SQL, which always says what a full recompute gives: touched keys are found and written by `refresh`,
and a cluster makes a table anew by `rebuild`.
"""
