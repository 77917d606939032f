"""What a PLC sees of a station: one state machine for each, and the protocols that are views of it (docs/plc.md)."""
