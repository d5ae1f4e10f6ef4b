"""Bases: finding a checkpoint, what it is, and how an adapter fits it."""
