INSERT INTO task_orders (lease, id, kind, content) SELECT lease, :id, :kind, :content FROM task_workers WHERE lease = :lease
