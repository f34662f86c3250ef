"""The bytes of Redis: keys, packed rows, event records and bases. `docs/redis_layout.md` describes them.

Face: every module. `keys` names keys, `row` packs one row, `rows` many, `events` says what records of events and bases
hold, `records` packs them and merges those of one key, `decode` unpacks them.
"""
