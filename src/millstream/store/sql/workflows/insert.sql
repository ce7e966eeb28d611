INSERT INTO workflow_nodes (id, root, parent, role, position, kind, state, remaining, name, queue, created_us, call)
VALUES (
    :id,
    coalesce(:root, (SELECT coalesce(max(seq), 0) + 1 FROM workflow_nodes)),
    :parent, :role, :position, :kind, 'waiting', :remaining, :name, :queue, :created_us, :call
)
RETURNING seq
