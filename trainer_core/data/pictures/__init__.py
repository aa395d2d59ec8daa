"""Decoding, buckets, crops and augmented views of pictures."""
