"""Redis: connections, what the online store says about itself, and the embedded Valkey.

Face: every module. `address` reads a Redis URL and connects to it, `store` is that of syncs, `readers` those of
reads, `registry` says what is online and what verify found last, `live` what arrived since, `refusals` what Redis'
errors mean, `portions` cuts what is too much to send at once, `embedded` starts Valkey.
"""
