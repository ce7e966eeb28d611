SELECT id
FROM store_identity
