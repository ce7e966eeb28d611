INSERT INTO model_version (model_id, version, made_us, rows, waiting, figures, size_bytes, checksum)
VALUES (:model_id, :version, :now_us, :rows, :waiting, :figures, :size_bytes, :checksum)
