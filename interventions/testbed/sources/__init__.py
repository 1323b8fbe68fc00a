"""Test beds made of downloaded files: the authors' annotations, or the original sources of each part."""
