"""Redis: connections, what the online store says about itself, and the embedded Valkey.

Face: every module. `address` reads a Redis URL, `connection` is one to it, `store` is that of syncs, `readers` those of
reads, `registry` says what is online, `live` what arrived since, `verified` what verify found last, `refusals` what
Redis' errors mean, `embedded` starts Valkey.
"""
