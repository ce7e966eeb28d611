UPDATE flow
SET closed_until_us = :closed_until_us,
    rows_in = rows_in + :rows_in,
    rows_out = rows_out + :rows_out,
    late = late + :late,
    untimed = untimed + :untimed,
    batches = batches + :batches,
    figures = coalesce(:figures, figures),
    committed_us = :now_us
WHERE id = :flow_id AND epoch = :epoch
RETURNING id
