"""Quantised layouts: what is stored in them, and how it becomes floats again, by windows.

A *layout* names its tensors in its own way; ``find`` of each module returns what it
recognises. A *matrix* decodes any window of one quantised weight; a *decoder* gives the
weight as a checkpoint of floats would hold it.
"""
