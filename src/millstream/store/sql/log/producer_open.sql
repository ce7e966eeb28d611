INSERT INTO producer (name, epoch) VALUES (?, 0)
ON CONFLICT (name) DO UPDATE SET epoch = epoch + 1
RETURNING id, epoch
