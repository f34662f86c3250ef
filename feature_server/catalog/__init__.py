"""The docs site and `features status`: what there is, whose it is, and how fresh.

Face: `site.write_docs`, `status.read_status`, `sources`, `lateness`.
"""
