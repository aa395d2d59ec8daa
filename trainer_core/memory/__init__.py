"""How much memory a project's work takes, and what makes it fit: measured on tensors without numbers, then planned."""
