"""Pictures of what is found, and the report of a run."""
