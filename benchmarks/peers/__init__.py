"""The peers: other ways to keep events on one machine, one a module, behind the contract in ``contract``."""
