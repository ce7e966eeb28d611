"""The other task queues, each behind ``contract.py``: its first lines say what it promises and how it is set up."""
