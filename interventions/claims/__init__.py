"""What the paper says about each figure and whether the measured numbers agree: claims, numbers and a closing sentence.

Each module is named after its figures. Every sentence is computed from the numbers of a study.
"""
