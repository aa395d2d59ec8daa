"""kohya's sd-scripts and the kohya_ss GUI."""
