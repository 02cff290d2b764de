"""Generated from ``protos/hybrid/wire/v1/pcc.proto``; ``make protos`` writes it again."""
