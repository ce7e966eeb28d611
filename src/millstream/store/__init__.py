"""The store: one directory, a SQL catalog as its only commit point, and plain segment files.

``FORMAT.md`` beside this file specifies every file. Only ``millstream.engines.local`` and ``millstream.testing`` import
this package.
"""

from millstream.store.store import Store
from millstream.store.transaction import Joinable, Snapshot, Transaction

__all__ = ["Joinable", "Snapshot", "Store", "Transaction"]
