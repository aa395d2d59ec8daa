"""Finds what is wrong with a project before work begins: pure functions over the open project."""
