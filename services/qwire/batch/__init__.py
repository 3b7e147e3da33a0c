"""Batch jobs: the store that remembers them, and the runner that works on them."""
