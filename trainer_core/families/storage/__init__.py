"""How the weights of a frozen base are held in memory: in full, or as 8- or 4-bit numbers. One file a scheme."""
