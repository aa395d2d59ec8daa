"""Functions that several families share."""
