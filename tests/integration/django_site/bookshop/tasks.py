"""Tasks as a user of Django writes them."""

from __future__ import annotations

import os
import signal

from bookshop.models import Note, Order
from django.db import connection

try:
    from django.tasks import TaskContext, task
except ModuleNotFoundError:
    from django_tasks import TaskContext, task


@task
def add(a, b=2):
    return a + b


@task
def ship(number):
    Order.objects.filter(pk=number).update(shipped=True)
    return {"shipped": number}


@task
async def greet(name):
    count = await Order.objects.acount()
    return f"hello {name}, {count} orders"


@task(takes_context=True)
def attempt(context: TaskContext, word):
    result = context.task_result
    return [word, context.attempt, result.status, len(result.worker_ids), result.args]


@task(queue_name="mail", priority=40)
def mail(to):
    Note.objects.create(text=f"mail {to}")


@task
def refuse(number):
    raise LookupError(f"no order {number}")


@task
def give_back_a_set():
    return {1, 2}


@task
def give_back_too_much():
    return 2**70


@task(takes_context=True, backend="patient", queue_name="patient")
def try_again(context: TaskContext, failures):
    if context.attempt <= failures:
        raise ConnectionError(f"attempt {context.attempt}")
    return context.attempt


@task(takes_context=True)
def die_once(context: TaskContext):
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return context.attempt


@task
def uses_of_this_connection():
    # A temporary table lives as long as its connection.
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE IF NOT EXISTS uses (n)")
        cursor.execute("INSERT INTO uses VALUES (1)")
        cursor.execute("SELECT count(*) FROM uses")
        return cursor.fetchone()[0]
