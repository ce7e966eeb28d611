"""The rules of the house: imports, shape, exports, docs, package and lock files."""
