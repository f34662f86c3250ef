"""Access: keys, what each may read and push, and the file that is their truth.

Face: `keys` (keys, and all there are), `scopes` (what one may do), `file` (where they are kept).
"""
