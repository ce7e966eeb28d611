SELECT queue, paused_us FROM task_pauses
