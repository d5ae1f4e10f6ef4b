"""adreg.cli: the command line, one file a command.

main      the group of all commands, each imported when it is used
options   what commands share: ``--json``, references, the registry
output    what goes to stdout, and how
progress  the bar on stderr
errors    the one place where an error becomes lines and an exit code
"""
