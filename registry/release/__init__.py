"""What makes a model or an adapter fit for others: card, licence, lock file, checksums.

Pure functions and values: what is known goes in, text comes out, and the same facts
give the same text, so that a rebuild can be compared byte for byte.
"""
