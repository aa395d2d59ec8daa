"""From folders of pictures to samples: discovery, decoding, captions, buckets, the manifest, its tables.

Nothing here writes into a dataset folder. Only `pixels` and `tables` import numpy, Pillow or pandas, and only when they
are needed, so that finding out that nothing changed stays fast.
"""
