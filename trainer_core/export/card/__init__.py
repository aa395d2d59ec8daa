"""The model card: a README.md for people and for the Hugging Face Hub, from facts alone."""
