"""The evaluations, one file each: how the data are opened, and what is measured on them."""
