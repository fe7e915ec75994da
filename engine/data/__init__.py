"""Image data sets in memory: readers, splits, and the views that training and evaluation read."""
