"""Tricks by which grit-mini learned from no pretrained weights at all; the trainer loads them when a recipe asks."""
