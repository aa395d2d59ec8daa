"""ostris' ai-toolkit."""
