"""Asking models: the only place beside ``merge`` that runs them, and never with code of others."""
