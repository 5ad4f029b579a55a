"""The servers that the lake brings along, and the processes of a running lake.

Here: an embedded PostgreSQL (`postgres`) and S3 server (`object_store`), who uses them and until when
(`embedded`), the processes of `upsell up` (`supervisor`), a Spark cluster (`spark_cluster`), what is remembered between
two commands (`state`), and how a process is started, recognised and ended (`process`). Nothing here knows what the lake stores; what the
settings name is never started here. Everything listens on 127.0.0.1 only, and lives in the lake's home folder.
"""

import sys

from upsell_assets.errors import PermanentError

if sys.platform == "win32":
    raise PermanentError("upsell runs on Linux and macOS, not on Windows itself. Use the Windows Subsystem for Linux.")
