"""The protocol as a test any implementation can take: vectors, ours and others', and what runs them (SPEC 18)."""
