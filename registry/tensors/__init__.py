"""Tensors in files: strict headers, shard indexes, reading by slices, writing headers."""
