"""The source: its slot, its publications, its replication stream."""
