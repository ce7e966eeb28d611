"""Events over HTTP: ``POST /topics/NAME``."""
