SELECT id, estimator, library, declaration, epoch, owner, revision, version, rows, waiting, unlabelled, incomplete, flow
FROM model
WHERE name = ?
