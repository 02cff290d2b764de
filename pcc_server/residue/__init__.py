"""Looking for what a process still holds: the detector behind "keeps nothing" (node design 2.1, S1 and S6)."""
