"""Streaming while some tables are still being copied: those that are ready take their changes, the others' wait here.

    source WAL → stream ┬→ batch → target
                        └→ spool (a control table, by table) → batch → target, once the table is ready

So the slot is confirmed, and the source may recycle its WAL, though not everything can be applied yet.
"""
