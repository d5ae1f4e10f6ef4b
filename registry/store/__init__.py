"""The files of adapters, each once, under its digest.

blobs          Store: where files and versions lie, reading them through, removing them
publication    a version's files on their way in
faults         what can be wrong with a stored file
"""
