"""A first project: looks at the machine, the base and the pictures, and writes settings with the reason beside each."""
