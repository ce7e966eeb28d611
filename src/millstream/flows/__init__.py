"""Flows: a plan of steps over events, built once and run as a batch or as a stream.

This folder is vocabulary: it decides and describes, and does no I/O. Engines interpret the plans.
"""
