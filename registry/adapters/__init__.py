"""Adapters in files: one reader a format, and the AdapterSpec that all of them give."""
