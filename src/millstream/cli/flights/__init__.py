"""The parts of ``millstream demo``: a year of departures from New York through log, batch, stream and queue."""
