"""One file a model family. A module here that defines `FAMILY` is a family; its name is the family's name."""
