"""One use case a file; here alone catalog, store, merge and release meet."""
