"""Reading weight files of this and other code: any known names into canonical tensors."""
