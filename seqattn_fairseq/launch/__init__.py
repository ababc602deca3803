"""Starting trainings: composing a recipe, one process per device, several nodes."""
