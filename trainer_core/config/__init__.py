"""Settings: groups, loading, conflicts, and what each stage may read of them."""
