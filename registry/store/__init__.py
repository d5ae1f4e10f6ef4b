"""The files of adapters, each once, under its digest.

blobs          Store: where files and versions lie, reading them through, removing them
publication    a version's files on their way in
leases         what keeps files there while a command reads them
mending        right bytes in the place of wrong ones, which go to quarantine
archive        the files of a backup: written and read as one stream
faults         what can be wrong with a stored file
"""
