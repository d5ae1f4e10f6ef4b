"""Ways to combine several deltas of one tensor, on full deltas, in constant memory.

A `Method` says which and with what parameters; a `Combination` is it at work on one
tensor: it looks at all tiles as often as it must, then turns each into the merged delta.
"""
