"""The memory of a region: segments, their names and layouts, and how they are mapped."""
