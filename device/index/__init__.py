"""Personal context: readers of the user's own files. They read; what is read never leaves through here."""
