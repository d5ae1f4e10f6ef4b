"""The merge engine: recipe -> plan -> run. It knows no catalog, and imports no torch."""
