"""Opens a project: its base model, its dataset, its pictures."""
