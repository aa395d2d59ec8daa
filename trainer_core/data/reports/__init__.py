"""What people read about a dataset: findings, tables and the contact sheet."""
