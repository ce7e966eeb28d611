SELECT unit.number, flow.name, flow.id, flow.owner, unit.member, unit.ended
FROM flow_unit AS unit
JOIN flow ON flow.id = unit.unit_id
WHERE unit.flow_id = ?
ORDER BY unit.number
