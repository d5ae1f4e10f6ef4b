"""The revisions, numbered in their order. Each has one idea and imports nothing of adreg."""
