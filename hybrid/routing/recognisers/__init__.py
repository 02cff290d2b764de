"""Recognisers of personal data: patterns with checksums. They add labels; they are not the privacy policy."""
