"""What adapters do to one tensor, a file for each family of tuners."""
