"""What all importers share: key tables, the engine that applies them, reports and YAML output."""
