"""Finds what is wrong with a project before work begins."""
