"""What tasks and signals write."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    title = models.CharField(max_length=100)
    shipped = models.BooleanField(default=False)


class Note(models.Model):
    text = models.CharField(max_length=200)
