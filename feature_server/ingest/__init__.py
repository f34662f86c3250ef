"""Live events: read, converted and packed, then written in one transaction; and the worker that lands them.

Face: `transaction.Ingestor`, `worker` (producers' stream and the log), `dead` (refused events).
"""
