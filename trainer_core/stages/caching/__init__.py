"""Entries of the two cache stages: their keys, how they are listed and read."""
