"""From folders of pictures to samples: discovery, decoding, captions, buckets, the manifest, its tables.

Nothing here writes into a dataset folder. Only `pictures.decode`, `pictures.mask_pixels`, `pictures.color_jitter` and
`reports.tables`, `reports.contact_sheet`, `reports.text_layout` import numpy, Pillow or pandas. Import them inside the
function that needs them, so that finding out that nothing changed stays fast.
"""
