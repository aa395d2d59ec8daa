"""Other trainers' configs become projects: a table of keys for each tool, one small engine for all of them."""
