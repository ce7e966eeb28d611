"""What happened, for people and for machines: figures as tables and pictures."""
