"""Records to base crops on the host, base crops to views on the accelerator."""
