"""Exporting a bundle's model, and proving that the exported files answer as it does."""
