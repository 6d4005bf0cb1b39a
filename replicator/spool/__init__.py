"""What the source sends while tables are being copied, kept on the target until they can take it.

    source WAL → stream → spool (a control table) → batch → target

So the slot is confirmed, and the source may recycle its WAL, though nothing can be applied yet.
"""
