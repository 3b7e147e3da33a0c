"""The versions of the job store's tables, one step after the other."""
