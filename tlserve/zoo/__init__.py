"""Torchvision's classifiers as data: how one is built, its head, where its weights come from."""
