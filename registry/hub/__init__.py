"""The Hugging Face Hub: one client, verified downloads, whole commits."""
