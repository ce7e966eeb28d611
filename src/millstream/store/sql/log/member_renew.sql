UPDATE group_member SET session_until_us = ? WHERE id = ? RETURNING id
