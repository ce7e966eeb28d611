SELECT owner, closed_until_us, figures
FROM flow
WHERE id = ?
