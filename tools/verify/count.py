"""Prints how many records an embedded log holds."""

import sqlite3
import sys

log = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
print(log.execute("SELECT count(*) FROM record").fetchone()[0])
