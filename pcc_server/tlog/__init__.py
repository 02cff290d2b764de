"""The transparency log as its operator runs it: the log's folder, a witness and a monitor (SPEC 5)."""
