"""Doors for those who are not millstream: each folder speaks a protocol, and knows no engine."""
