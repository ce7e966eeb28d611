"""Durable tasks: what they are, how they are sent, retried and finished. Decides; does no I/O."""
