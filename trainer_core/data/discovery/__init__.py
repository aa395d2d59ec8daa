"""Which files a dataset folder holds: pictures, captions, masks, control pictures. Opens no picture."""
