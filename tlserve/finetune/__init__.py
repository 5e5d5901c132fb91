"""Transfer learning: from an image folder to a bundle with the best checkpoint."""
