"""The systems that this one is measured against: one file each, which says how it is set up."""
