"""What measures shows."""
