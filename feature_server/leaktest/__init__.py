"""What a build knew that it could not have known: the same project built as of two instants, compared. Face: `run`."""
