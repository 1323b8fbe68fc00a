"""VQA-Constraints, the test bed: questions about images with their constraints marked (paper, section 3)."""

from ..errors import TestBedError
from .images import load_image, on_white
from .schema import Item, TestBed, same_entity
from .table import load_testbed, save_testbed

__all__ = [
    "Item", "TestBed", "TestBedError", "load_image", "load_testbed", "on_white", "same_entity", "save_testbed",
]
