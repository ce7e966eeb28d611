"""Writes each signal down, with what it says."""

from __future__ import annotations

from django.dispatch import receiver

try:
    from django.tasks.signals import task_enqueued, task_finished, task_started
except ModuleNotFoundError:
    from django_tasks.signals import task_enqueued, task_finished, task_started


def note(what, task_result):
    from bookshop.models import Note

    words = [what, task_result.task.name, task_result.status, str(task_result.attempts)]
    Note.objects.create(text=" ".join([*words, str(len(task_result.errors))]))


@receiver(task_enqueued)
def on_enqueued(sender, task_result, **_):
    note("enqueued", task_result)


@receiver(task_started)
def on_started(sender, task_result, **_):
    note("started", task_result)


@receiver(task_finished)
def on_finished(sender, task_result, **_):
    note("finished", task_result)
