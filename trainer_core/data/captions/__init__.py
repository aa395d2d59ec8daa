"""From the lines of a caption file to the texts that a sample is trained on."""
