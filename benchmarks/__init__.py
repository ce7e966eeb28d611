"""Benchmarks: each measures this library beside its peers, on the same work, in the same run.

``make bench NAME=log`` runs ``benchmarks.log``. What they share lies here: ``harness`` measures in rounds, ``report``
prints the table and the line of JSON, ``machine`` says where it ran, ``peers`` wraps each peer behind one contract.
"""
