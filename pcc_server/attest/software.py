"""Tier 0: no evidence. The empty item proves only that the holder of the identity key says so (SPEC 13)."""

from hybrid.wire.evidence import SOFTWARE, EvidenceItem


class SoftwareAttester:
    """Collects nothing, and says so in its format's name."""

    format = SOFTWARE
    tier = 0

    def collect(self, _binding: bytes) -> EvidenceItem:
        """Return the empty item. binding: the 64 bytes a stronger collector would have signed."""
        return EvidenceItem(format=self.format, item=b"")
