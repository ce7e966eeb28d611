"""The command ``millstream``: one file a command."""
