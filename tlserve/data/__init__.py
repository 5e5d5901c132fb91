"""Image folders: which images there are, whether they are whole, and how they are split."""
