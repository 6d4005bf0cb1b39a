"""The first copy: the schema, a snapshot of the rows, the keys and indexes."""
