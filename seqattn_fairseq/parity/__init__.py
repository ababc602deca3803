"""Running files of tensors that the official codes produced ("goldens") against this project."""
