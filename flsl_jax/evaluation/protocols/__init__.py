"""The evaluations, one file each: how its data are opened, what is measured, and its entry for the list in `tasks`."""
