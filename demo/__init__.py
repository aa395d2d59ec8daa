"""The embedded demo: a tiny base model of the SD1.5 shape, a tiny dataset, and their makers."""
