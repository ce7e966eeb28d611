"""The tests, by kind: unit, property, simulation, integration, conformance and architecture."""
