"""Verifying a store, for those who may not touch ``store`` themselves."""

from millstream.store.check import Finding, Report, check, inspect

__all__ = ["Finding", "Report", "check", "inspect"]
