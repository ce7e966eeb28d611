SELECT name, estimator, library, version, rows, waiting, unlabelled, incomplete, flow, owner, updated_us, figures
FROM model
ORDER BY name
